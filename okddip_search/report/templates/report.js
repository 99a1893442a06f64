"use strict";
// Draws every figure of the page. Nothing is fetched: the figures are in the page.
const figures = JSON.parse(document.getElementById("figures").textContent);
const plots = Array.from(document.querySelectorAll("[data-figure]"));
const touch = window.matchMedia("(pointer: coarse)").matches;
const config = {
  responsive: true,
  displaylogo: false,
  displayModeBar: touch ? false : "hover",
  modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
};

// Small multiples of square cells: on a narrow page they are lower, too.
function fitHeight(plot, layout, width) {
  if (!layout.meta) return;
  const { rows, columns } = layout.meta;
  layout.height = Math.min(110 + 215 * rows, Math.round(120 + rows * 1.15 * (width / columns)));
  plot.style.height = `${layout.height}px`;
}

for (const plot of plots) {
  const figure = figures[plot.dataset.figure];
  const isParallel = figure.data[0].type === "parcoords";
  // A finger that moves over a chart scrolls the page.
  if (touch && !isParallel) figure.layout.dragmode = false;
  fitHeight(plot, figure.layout, plot.clientWidth);
  Plotly.newPlot(plot, figure.data, figure.layout, config);
}

// Paper has another width than the screen, and printing does not wait: charts are drawn for the
// narrower of A4 and Letter within the margins of the print style, and drawn back afterwards.
const PAPER_PX = 650;
const COLUMN_PX = 300;
window.addEventListener("beforeprint", () => {
  for (const plot of plots) {
    Plotly.relayout(plot, { width: plot.closest(".three, .charts") ? COLUMN_PX : PAPER_PX });
  }
});
window.addEventListener("afterprint", () => {
  for (const plot of plots) Plotly.relayout(plot, { width: null, autosize: true });
});
