"""What `okddip-search ui` links to, seen in a real browser.

The saved view is undocumented in MLflow: this test tells when a version of it reads it differently.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tracking_helpers import (
    EPOCHS,
    TAGS,
    confirm_run,
    free_port,
    open_tracker,
    report,
    run_trial,
)

from okddip_search.study.events import TrialEnd

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect

SWITCHES = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
    --disable-background-networking --disable-component-update""".split()
ASSISTANT_WAS_OPEN = "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1"
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
UI = """
import sys
from pathlib import Path
from okddip_search.tracking.ui import serve_ui
echo = lambda line: print(line, flush=True)
sys.exit(serve_ui(Path(sys.argv[1]), port=int(sys.argv[2]), echo=echo))
"""

# Row of the table to run name and `okddip.state`: best accuracy first. The search's own run shares
# rows 3 and 4 with its best trial, in either order.
ROWS = {
    0: ("trial 3", "failed"),
    1: ("trial 2", "pruned"),
    2: ("trial 4", "complete"),
    5: ("trial 0", "complete"),
}

CONFIRM_RUNS = [("trial 1", 5, 0.71), ("dml", 5, 0.74), ("trial 1", 6, 0.73), ("dml", 6, 0.72)]


@pytest.fixture(scope="module")
def story_dir(tmp_path_factory) -> Path:
    """Trials of every state, one of them with a parameter that the others lack, and confirmed."""
    search_dir = tmp_path_factory.mktemp("view")
    tracker = open_tracker(search_dir)
    tracker.search_started({"trials": 5}, {**TAGS, "okddip.reduction": "last epoch"})
    run_trial(tracker, 0)
    best = run_trial(tracker, 1)
    run_trial(tracker, 2, "pruned", stop=2, best=best)
    run_trial(tracker, 3, "failed", stop=2, best=best)
    tracker.trial_started(4, {"lr": 0.2, "num_peers": 3, "lr_drop": 0.5}, False)
    for epoch in range(EPOCHS):
        tracker.epoch_reported(4, epoch, report(epoch, 0.65))
    tracker.trial_ended(TrialEnd(4, "complete", 0.55, EPOCHS - 1), best)
    for number, (contender, seed, accuracy) in enumerate(CONFIRM_RUNS):
        confirm_run(tracker, number, contender, seed, accuracy)
    tests = {number: accuracy - 0.1 for number, (_, _, accuracy) in enumerate(CONFIRM_RUNS)}
    tracker.confirmed(tests, "within noise of dml")
    tracker.search_ended("FINISHED")
    assert tracker.close(60)
    return search_dir


@pytest.fixture(scope="module")
def links(story_dir):
    """The links that the command prints: the table, the charts, and the confirm runs."""
    command = [sys.executable, "-c", UI, str(story_dir), str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield [process.stdout.readline().split()[-1] for _ in range(3)]
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        path = shutil.which("chromium") or driver.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("chromium is not installed")
        browser = driver.chromium.launch(executable_path=path, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, links):
    """A fresh browser's page; it must complain of nothing, and need nothing but our server."""
    context = browser.new_context(viewport={"width": 1440, "height": 1300})
    context.set_default_timeout(20_000)
    # MLflow opens its assistant at the first visit, over a quarter of the page.
    context.add_init_script(f"localStorage.setItem('{ASSISTANT_WAS_OPEN}', 'true')")
    address = links[0].partition("#")[0]
    elsewhere, errors = [], []

    def only_here(route):
        if route.request.url.startswith(address):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    context.route(lambda url: url.startswith(("http:", "https:")), only_here)
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    expect(page.locator("[class*=notification-notice-error]")).to_have_count(0)
    context.close()
    assert (elsewhere, errors) == ([], [])


def save_screenshot(page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / name)


def cell(page, row: int, column: str):
    """Locate a cell of the table; the rows of its pinned and moving halves share an index."""
    return page.locator(f"[role=row][row-index='{row}'] [col-id='{column}']")


def test_table_has_the_best_on_top_with_state_and_parameters(page, links):
    page.goto(links[0])
    for row, (name, state) in ROWS.items():
        link = cell(page, row, "attributes.`Run Name`").get_by_role("link")
        expect(link).to_have_text(name, timeout=20_000)
        expect(cell(page, row, "tags.`okddip.state`")).to_have_text(state)
    expect(cell(page, 2, "tags.`okddip.objective`")).to_have_text("0.55")
    expect(cell(page, 2, "metrics.`best_leader_accuracy`")).to_have_text("0.65")
    expect(cell(page, 2, "params.`lr`")).to_have_text("0.2")
    save_screenshot(page, "mlflow-table.png")
    assert headers(page)[:5] == [
        "tags.`okddip.state`",
        "tags.`okddip.objective`",
        "tags.`okddip.reduction`",
        "metrics.`best_leader_accuracy`",
        "params.`lr`",
    ]
    expect(page.get_by_text("confirm:")).to_have_count(0)


def headers(page) -> list[str]:
    """Return the columns of the scrolling half of the table, from left to right."""
    cells = page.locator(".ag-header-viewport .ag-header-cell").all()
    cells.sort(key=lambda header: header.bounding_box()["x"])
    return [header.get_attribute("col-id") for header in cells]


def test_confirm_runs_are_shown_alone_the_best_on_top(page, links):
    page.goto(links[2])
    best_first = sorted(CONFIRM_RUNS, key=lambda run: -run[2])
    for row, (contender, seed, accuracy) in enumerate(best_first):
        link = cell(page, row, "attributes.`Run Name`").get_by_role("link")
        expect(link).to_have_text(f"confirm: {contender}, seed {seed}", timeout=20_000)
        expect(cell(page, row, "params.`contender`")).to_have_text(contender)
        expect(cell(page, row, "params.`seed`")).to_have_text(str(seed))
        method = "dml" if contender == "dml" else "okddip"
        expect(cell(page, row, "params.`method`")).to_have_text(method)
        expect(cell(page, row, "metrics.`val/leader_accuracy`")).to_have_text(f"{accuracy:g}")
        tested = cell(page, row, "metrics.`test/leader_accuracy`")
        expect(tested).to_have_text(f"{accuracy - 0.1:g}")
    expect(page.locator(f"[role=row][row-index='{len(CONFIRM_RUNS)}']")).to_have_count(0)
    save_screenshot(page, "mlflow-confirm.png")
    assert headers(page)[:6] == [
        "tags.`okddip.state`",
        "params.`contender`",
        "params.`seed`",
        "params.`method`",
        "metrics.`val/leader_accuracy`",
        "metrics.`test/leader_accuracy`",
    ]


def test_charts_start_with_parallel_coordinates_and_learning_curves(page, links):
    page.goto(links[1])
    axes = page.locator(".parcoords .dimension text.label")
    # Without `lr_drop`: MLflow would leave out the runs that lack it.
    expect(axes).to_have_text(["lr", "num_peers", "best_leader_accuracy"], timeout=20_000)
    page.wait_for_function(
        """() => {
            const canvas = document.querySelector('.parcoords canvas.foreground');
            const size = [0, 0, canvas.width, canvas.height];
            return canvas.getContext('2d').getImageData(...size).data.some(byte => byte > 0);
        }"""
    )
    curves = page.locator(".js-plotly-plot")
    for index in range(2):
        expect(curves.nth(index).locator(".scatterlayer .js-line").first).to_be_attached()
    for title in ("Hyperparameters and best accuracy", "Learning curves"):
        expect(page.get_by_text(title, exact=False)).to_be_visible()
    save_screenshot(page, "mlflow-charts.png")
