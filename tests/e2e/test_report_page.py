"""The report in a real browser: complete, quiet, offline, and within a phone's width."""

import shutil
import sys
from pathlib import Path

import pytest

from okddip_search.report.page import write_report

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from report_helpers import make_confirm, make_search, write_confirm  # noqa: E402

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

SWITCHES = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
    --disable-background-networking --disable-component-update""".split()
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
WIDTHS = (1440, 390)

UNDRAWN = """() => Array.from(document.querySelectorAll('[data-figure]')).filter(plot => {
    const marks = '.scatterlayer path, .barlayer path, .heatmaplayer image, .hm image, canvas';
    const svg = plot.querySelector('svg.main-svg');
    return !plot.matches('.js-plotly-plot') || !svg || svg.clientHeight < 100
        || !plot.querySelector(marks);
}).map(plot => plot.dataset.figure)"""
BEYOND_ITS_CARD = """() => Array.from(document.querySelectorAll('.chart')).filter(card => {
    const svg = card.querySelector('svg.main-svg'), box = card.querySelector('.scroll');
    return svg && svg.getBoundingClientRect().right > card.getBoundingClientRect().right + 1
        && box.scrollWidth <= box.clientWidth;
}).map(card => card.id)"""
LEGENDS_OVER_DATA = """() => Array.from(document.querySelectorAll('.js-plotly-plot')).filter(p => {
    const legend = p.querySelector('.legend'), area = p.querySelector('.nsewdrag');
    return legend && area
        && legend.getBoundingClientRect().bottom > area.getBoundingClientRect().top + 1;
}).map(plot => plot.dataset.figure)"""


@pytest.fixture(scope="module")
def report_page(tmp_path_factory) -> Path:
    search_dir = make_search(tmp_path_factory.mktemp("page") / "tiny")
    write_confirm(search_dir, make_confirm(search_dir))
    return write_report(search_dir)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        path = shutil.which("chromium") or driver.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("chromium is not installed")
        browser = driver.chromium.launch(executable_path=path, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture(params=WIDTHS, ids=lambda width: f"{width}px")
def page(browser, report_page, request):
    """The page in a window of that width; it must complain of nothing and ask for nothing."""
    complaints, requests = [], []
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("request", lambda asked: requests.append(asked.url))
    page.goto(report_page.as_uri())
    page.wait_for_function(f"() => ({UNDRAWN})().length === 0")
    yield page
    context.close()
    assert complaints == []
    # Nothing but the page itself; what plotly.js makes in memory (blob:, data:) is no request.
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [
        report_page.as_uri()
    ]


def test_everything_is_drawn_and_fits(page):
    width = page.viewport_size["width"]
    assert page.locator(".js-plotly-plot").count() >= 17
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(BEYOND_ITS_CARD) == []
    assert page.evaluate(LEGENDS_OVER_DATA) == []
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"report-{width}.png", full_page=True)


def test_verdict_and_configuration_come_first(page):
    assert page.locator(".verdict .sentence").inner_text() == "Trial 1 is beaten by dml."
    tops = [
        page.locator(selector).first.bounding_box()["y"]
        for selector in ("h1", "#verdict", "#best", "#confirmation-section", "#search-section")
    ]
    assert tops == sorted(tops)


def test_prints_within_the_paper(browser, report_page, tmp_path):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(report_page.as_uri())
    page.wait_for_function(f"() => ({UNDRAWN})().length === 0")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    widths = page.evaluate(
        "Array.from(document.querySelectorAll('svg.main-svg')).map(svg => svg.clientWidth)"
    )
    assert max(widths) <= 690  # A4 less its margins, in CSS pixels
    pdf = page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    page.wait_for_function(
        "() => document.querySelector('#history svg.main-svg').clientWidth > 900"
    )
    page.close()
