"""The report: what it reads, what it says, and that it harms neither the search nor the reader."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import plotly.graph_objects as go
import pytest
from optuna.trial import TrialState
from report_helpers import (
    COMMAND,
    REASON,
    Page,
    comparison,
    data_of,
    make_confirm,
    make_search,
    make_single_search,
    write_confirm,
    write_sessions,
)

from okddip_search.errors import UserError
from okddip_search.layout import JOURNAL
from okddip_search.report.charts import make_charts
from okddip_search.report.page import render, write_report
from okddip_search.report.sources import read_sources
from okddip_search.study.sessions import Session, SessionLog
from trainer.io.files import exclusive_lock


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_search(tmp_path_factory.mktemp("report") / "tiny")


@pytest.fixture
def search_dir(original, tmp_path):
    """A killed search of its own for each test, with 2 complete trials, 2 pruned, 1 failed."""
    return copy_of(original, tmp_path / "tiny")


@pytest.fixture
def confirmed_dir(search_dir):
    write_confirm(search_dir, make_confirm(search_dir))
    return search_dir


def copy_of(source: Path, target: Path) -> Path:
    subprocess.run(["cp", "-r", source, target], check=True)
    return target


def page_of(directory: Path) -> Page:
    return Page(write_report(directory).read_text())


class TestData:
    def test_trials_are_those_of_the_study(self, search_dir):
        data = data_of(search_dir)
        states = [trial["state"] for trial in data["trials"]]
        assert states[:2] == ["complete"] * 2 and states[4:] == ["failed", "running"]
        assert "pruned" in states
        assert data["search"]["counts"]["complete"] == states.count("complete")
        for trial in read_sources(search_dir).trials:
            told = data["trials"][trial.number]
            assert told["params"] == trial.params
            complete = trial.state is TrialState.COMPLETE
            assert told["value"] == (trial.value if complete else None)
            assert told["epochs"] == len(trial.intermediate_values)

    def test_curves_are_those_of_the_runs(self, search_dir):
        curves = data_of(search_dir)["curves"]
        result = json.loads((search_dir / "trials/0/result.json").read_text())
        assert curves["0"]["epochs"] == [0, 1, 2, 3]
        for report, leader, gap in zip(
            result["history"], curves["0"]["leader"], curves["0"]["gap"], strict=True
        ):
            assert leader == pytest.approx(report["leader_accuracy"], abs=1e-5)
            assert gap == pytest.approx(report["ensemble_gap"], abs=1e-5)
        assert len(curves["5"]["leader"]) == 2  # the running trial, from its checkpoint

    def test_attention_is_sampled_over_the_epochs(self, search_dir):
        attention = data_of(search_dir)["attention"]
        epochs = [frame["epoch"] for frame in attention["frames"]]
        assert epochs[0] == 0 and epochs[-1] == 3
        for frame in attention["frames"]:
            assert all(sum(row) == pytest.approx(1, abs=1e-3) for row in frame["matrix"])

    def test_numbers_that_json_has_no_word_for_become_null(self, search_dir):
        state = search_dir / "trials/5/state.json"
        run = json.loads(state.read_text())
        run["history"][0]["diversity"] = float("nan")
        run["history"][1]["ensemble_gap"] = float("inf")
        state.write_text(json.dumps(run))
        curves = data_of(search_dir)["curves"]["5"]
        assert curves["diversity"][0] is None and curves["gap"][1] is None

    def test_the_reason_is_found_under_the_bridges_own_name(self, search_dir):
        assert data_of(search_dir)["trials"][4]["reason"] == REASON

    def test_provenance(self, search_dir):
        provenance = data_of(search_dir)["provenance"]
        assert provenance["command"].startswith("okddip-search --space tiny.yaml")
        assert provenance["versions"] == {"torch": "2.9.0"}
        assert (provenance["host"], provenance["study_seed"]) == ("box", 0)
        assert len(provenance["data_fingerprint"]) == 16

    def test_page_is_made_from_the_json_alone(self, confirmed_dir):
        page = write_report(confirmed_dir).read_text()
        assert page == render(json.loads((confirmed_dir / "report.json").read_text()))


class TestReading:
    def test_changes_nothing_and_needs_no_lock(self, search_dir):
        with open(search_dir / JOURNAL, "ab") as journal:
            journal.write(b'{"op_code": 6, "worker_id": "torn')
        before = contents(search_dir)
        with exclusive_lock(search_dir / "lock"):
            before["lock"] = (search_dir / "lock").read_bytes()
            write_report(search_dir)
        after = contents(search_dir)
        assert after.keys() - before.keys() == {"report.json", "report.html"}
        assert {name: after[name] for name in before} == before

    def test_says_how_the_search_stands(self, search_dir):
        def state():
            return data_of(search_dir)["search"]["state"]

        (search_dir / "lock").write_text("99999999")
        assert state() == "killed"
        with subprocess.Popen(["sleep", "60"]) as somebody:
            (search_dir / "lock").write_text(str(somebody.pid))
            assert state() == "running"
            somebody.kill()
        for word, expected in (
            ("KILLED", "stopped"),
            ("FAILED", "failed"),
            ("FINISHED", "finished"),
        ):
            write_sessions(search_dir, ended=word)
            assert state() == expected

    def test_a_budget_of_time_is_named_and_no_number_of_trials_ends_the_search(self, search_dir):
        space = search_dir / "spec.yaml"
        space.write_text(space.read_text().replace("budget: null", "budget: 8h"))
        search = data_of(search_dir)["search"]
        assert (search["budget"], search["time_budget"]) == (None, "8h")
        assert search["state"] == "killed"
        assert "8h for everything" in page_of(search_dir).text

    def test_offers_to_resume_what_can_be(self, search_dir):
        assert "okddip-search --resume --out" in page_of(search_dir).text
        write_sessions(search_dir, ended="FINISHED")
        assert "--resume" not in page_of(search_dir).text

    def test_is_written_before_any_trial_has_reported(self, search_dir):
        journal = search_dir / JOURNAL
        journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
        page = page_of(search_dir)
        assert "No trial is complete yet" in page.text
        assert page.count("figure") and not data_of(search_dir)["curves"]

    def test_survives_a_damaged_trial(self, search_dir):
        (search_dir / "trials/0/result.json").write_text('{"history": [')
        (search_dir / "trials/0/state.json").write_text("")
        assert "0" not in data_of(search_dir)["curves"]

    def test_a_damaged_confirmation_is_named(self, search_dir):
        (search_dir / "confirm").mkdir()
        (search_dir / "confirm/confirm.json").write_text('{"format": 99}')
        page = page_of(search_dir)
        assert "was written by another version" in page.text
        assert "Nothing is confirmed yet" in page.text

    def test_needs_a_search(self, tmp_path):
        with pytest.raises(UserError, match="holds no search"):
            write_report(tmp_path)

    def test_needs_neither_torch_nor_ray_nor_mlflow(self):
        check = (
            "import sys, okddip_search.report.page\n"
            "print([m for m in ('torch', 'ray', 'mlflow') if m in sys.modules])"
        )
        told = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
        assert told.stdout.strip() == "[]", told.stderr


class TestHonesty:
    def test_nothing_is_confirmed_without_a_confirmation(self, search_dir):
        page, data = page_of(search_dir), data_of(search_dir)
        assert data["verdict"]["status"] == "none" and data["best"]["standing"] == "searched"
        assert "Nothing is confirmed yet" in page.text
        assert data["verdict"]["command"] in page.text
        assert data["verdict"]["command"].startswith("okddip-search confirm ")

    def test_verdict_is_that_of_the_confirmation(self, confirmed_dir):
        page = page_of(confirmed_dir)
        assert "Trial 1 is beaten by dml." in page.text
        assert "Beaten by a baseline" in page.text

    def test_a_gain_within_the_noise_is_never_shown_as_one(self, search_dir):
        confirm = make_confirm(search_dir)
        words = "within noise (needs about 23 seeds)"
        confirm["comparisons"] = [comparison("dml", 0.01, 0.02, "within noise", words)]
        confirm["verdict"] |= {"sentence": "Within the noise of dml.", "status": "unconfirmed"}
        write_confirm(search_dir, confirm)
        page = page_of(search_dir)
        assert words in page.text and "Not confirmed: within the noise" in page.text
        shown = [a.get("class", "") for tag, a in page.elements if tag == "span"]
        assert "better" not in shown
        forest = make_charts(data_of(search_dir))["forest"].figure
        assert [trace["name"] for trace in forest["data"]] == ["within noise"]

    def test_it_says_when_the_search_has_gone_on_since_its_confirmation(self, search_dir):
        confirm = make_confirm(search_dir)
        for known, is_said in ((6, False), (3, True)):
            write_confirm(search_dir, {**confirm, "search_trials": known})
            assert ("continued since" in page_of(search_dir).text) == is_said

    def test_better_and_worse_are_said_of_the_winner(self, confirmed_dir):
        forest = make_charts(data_of(confirmed_dir))["forest"].figure
        labels = [note["text"] for note in forest["layout"]["annotations"]]
        assert labels[1:] == [
            "<b>single</b><br>the winner is better",
            "<b>dml</b><br>the winner is worse",
        ]
        single = next(t for t in forest["data"] if t["name"] == "the winner is better")
        assert single["x"] == [3.0] and single["error_x"]["array"] == [1.0]  # points
        low, high = forest["layout"]["xaxis"]["range"]
        assert low < -4 and high > 4  # zero and both ends of every interval are in sight

    def test_a_running_confirmation_gives_no_verdict(self, search_dir):
        confirm = make_confirm(search_dir)
        confirm |= {"state": "running", "winner": None, "verdict": None, "comparisons": []}
        confirm |= {"openings": [], "noise_floor": None, "leader": None}
        confirm["search_best"]["confirmed_mean"] = None
        for one in confirm["contenders"]:
            one["test"] = None
            for run in one["runs"]:
                run |= {"state": "waiting", "validation": None, "test": None}
        write_confirm(search_dir, confirm)
        page = page_of(search_dir)
        assert "0 of 20 confirmation runs have ended, and the test set is still sealed" in page.text
        assert "It has not been opened." in page.text
        assert "winner: trial" not in page.text

    def test_winners_curse_noise_and_openings_are_shown(self, confirmed_dir):
        text = page_of(confirmed_dir).text.replace("\xa0", " ")
        assert "93.00 % one run" in text and "91.00 % mean" in text and "−2.00 points" in text
        assert "0.50 points" in text  # the noise floor
        assert "0.30 to 1.40 points" in text
        assert "Openings of the test set: 1" in text and "2030-01-01 10:59:00" in text

    def test_looks_are_shown_with_who_left_when_and_why(self, search_dir):
        confirm = make_confirm(search_dir)
        left = ({"look": 2, "n": 5, "left": "last look"}, {"look": 1, "n": 3, "left": "decided"})
        for one, how in zip(confirm["comparisons"], (*left, left[1]), strict=True):
            one |= how
        command = confirm["openings"][0]["command"]
        confirm |= {
            "test": "moderated max-T",
            "looks": {"at": 2, "seeds": [3, 5], "error_spent": [0.018, 0.05]},
            "openings": [
                {"time": f"2030-01-01T10:5{n}:00+00:00", "command": command,
                 "look": {"number": n, "of": 2, "seeds": seeds}}
                for n, seeds in ((1, 3), (2, 5))
            ],
        }  # fmt: skip
        write_confirm(search_dir, confirm)
        text = page_of(search_dir).text
        assert "planned after 3, 5 seeds; 2 of 2 were taken" in text
        assert "3 seeds, look 1: decided" in text and "5 seeds, look 2: the last look" in text
        assert "Openings of the test set: 1, and 1 further planned look" in text
        assert "2 of 2, after 5 seeds" in text
        assert "no longer blind" not in text
        forest = make_charts(data_of(search_dir))["forest"].figure
        labels = [note["text"] for note in forest["layout"]["annotations"]]
        assert labels[1].startswith("<b>single</b>, 3 seeds<br>")

    def test_cost_and_failures_of_the_confirmation_are_shown(self, confirmed_dir):
        text = page_of(confirmed_dir).text.replace("\xa0", " ")
        assert "4,970" in text and "1.23 M" in text and "0.61 ms" in text
        assert "the leader's cost never does" in text
        assert REASON in text
        cost = data_of(confirmed_dir)["cost"]
        assert (cost["unit"], cost["confirm_device_s"]) == ("core", 80.0)

    @pytest.mark.parametrize("reduce", ["last", "best", "mean_last_3"])
    def test_reduction_is_named(self, search_dir, reduce):
        spec = search_dir / "spec.yaml"
        spec.write_text(spec.read_text().replace("reduce: last", f"reduce: {reduce}"))
        data = data_of(search_dir)
        words = data["search"]["objective"]["words"]
        assert f"(one run, {words})" in page_of(search_dir).text
        for name in ("history", "pareto", "slice-lr"):
            assert words in make_charts(data)[name].figure["layout"]["yaxis"]["title"]["text"]


class TestPage:
    def test_stands_alone(self, confirmed_dir):
        html = write_report(confirmed_dir).read_text()
        assert html.count("plotly.js v") == 1 and len(html) < 6_000_000
        page = Page(html)
        for tag, attributes in page.elements:
            assert tag not in ("iframe", "img", "object", "embed")
            for name in ("src", "href"):
                assert attributes.get(name, "#").startswith(("#", "data:"))
        policies = [a["content"] for t, a in page.elements if t == "meta" and "content" in a]
        assert any(policy.startswith("default-src 'none'") for policy in policies)

    def test_planted_script_is_inert(self, search_dir):
        planted = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
        confirm = make_confirm(search_dir)
        confirm["command"] = planted
        for one in confirm["contenders"][2:]:
            one["note"] = planted
            one["runs"][4] |= {"state": "failed", "reason": planted}
        confirm["contenders"][2]["label"] = confirm["comparisons"][1]["rival"] = planted
        confirm["comparisons"][0]["words"] = planted
        confirm["verdict"]["sentence"] = planted
        write_confirm(search_dir, confirm)
        journal = search_dir / JOURNAL
        journal.write_text(journal.read_text().replace(REASON, planted))
        html = write_report(search_dir).read_text()
        page = Page(html)
        assert page.count("script") == 3 and page.count("img") == 0
        assert planted in page.text  # told as it is
        figures = html.split('id="figures">')[1].split("</script>")[0]
        assert "<" not in figures
        labels = [a["text"] for a in json.loads(figures)["forest"]["layout"]["annotations"]]
        assert any("&lt;script&gt;" in label for label in labels)
        assert not any("<script" in label for label in labels)

    def test_passwords_are_masked(self, search_dir):
        SessionLog(search_dir).begin(Session("s1", "tiny", tags={"okddip.command": COMMAND}))
        confirm = make_confirm(search_dir)
        confirm["command"] = confirm["openings"][0]["command"] = COMMAND
        write_confirm(search_dir, confirm)
        write_report(search_dir)
        for name in ("report.html", "report.json"):
            text = (search_dir / name).read_text()
            assert "hunter2" not in text and "***@mlflow" in text

    def test_a_single_network_has_no_peers_and_the_page_says_so(self, tmp_path):
        text = page_of(make_single_search(tmp_path / "alone")).text
        assert text.count("No trial trains a group of networks") == 3
        assert "No trial's method has an attention matrix" in text
        assert "Importances need at least 2 complete trials; there are 1." in text


class TestCharts:
    def test_all_are_valid_for_plotly(self, confirmed_dir):
        charts = make_charts(data_of(confirmed_dir))
        drawn = {name: chart for name, chart in charts.items() if chart.figure}
        assert drawn.keys() >= {
            "history", "curves", "best_members", "paper_members", "pareto", "importances",
            "parallel", "diversity", "gap", "attention", "ramp_up", "forest", "runs", "slice-lr",
        }  # fmt: skip
        for chart in drawn.values():
            go.Figure(copy.deepcopy(chart.figure))  # refuses an unknown property or value
            assert chart.title

    def test_axes_have_titles(self, confirmed_dir):
        without = {"parallel", "attention"}  # their axes carry names of their own
        rows = {"importances", "forest", "runs"}  # and the rows of these are labelled
        for name, chart in make_charts(data_of(confirmed_dir)).items():
            if chart.figure and name not in without:
                layout = chart.figure["layout"]
                assert layout["xaxis"]["title"]["text"]
                assert name in rows or layout["yaxis"]["title"]["text"]

    def test_a_parameter_that_does_not_apply_has_a_place_of_its_own(self, search_dir):
        figure = make_charts(data_of(search_dir))["parallel"].figure
        decay = next(d for d in figure["data"][0]["dimensions"] if d["label"] == "lr_decay")
        assert decay["ticktext"][0] == "–"
        dash = decay["tickvals"][0]
        assert dash < 0.05 and min(decay["values"]) == pytest.approx(dash)

    def test_pruned_trials_end_where_they_were_pruned(self, search_dir):
        data = data_of(search_dir)
        pruned = [t for t in data["trials"] if t["state"] == "pruned"]
        figure = make_charts(data)["ramp_up"].figure
        (ends,) = [trace for trace in figure["data"] if trace.get("name") == "pruned here"]
        assert ends["x"] == [t["epochs"] - 1 for t in pruned]
        assert all(t["epochs"] - 1 >= t["prune_from"] for t in pruned)

    def test_a_trial_that_went_on_is_drawn_from_its_pause_to_its_end(self, search_dir):
        data = data_of(search_dir)
        trial = next(t for t in data["trials"] if t["state"] == "complete")
        trial |= {
            "pauses_after": 2,
            "paused_at": 0.25,
            "went_on": {"mean": 0.5, "sd": 0.1, "mark": None},
        }
        figure = make_charts(data)["history"].figure
        (stretch,) = [t for t in figure["data"] if t["name"] == "from pause to end"]
        assert stretch["x"][:2] == [trial["number"]] * 2
        assert stretch["y"][:2] == [25.0, pytest.approx(100 * trial["value"])]
        hovers = [text for t in figure["data"] for text in t.get("text", ())]
        assert any("went on: expected 50.00 % ± 10.00, none was complete yet" in h for h in hovers)
        go.Figure(copy.deepcopy(figure))

    def test_long_searches_stay_small(self, search_dir):
        data = data_of(search_dir)
        curve = {name: values * 500 for name, values in data["curves"]["0"].items()}
        curve["epochs"] = list(range(2000))
        trials = [{**data["trials"][0], "number": n} for n in range(200)]
        data |= {"trials": trials, "curves": {str(n): curve for n in range(200)}}
        figure = make_charts(data)["curves"].figure
        points = sum(len(trace["x"]) for trace in figure["data"])
        assert points <= 60 * 301
        assert max(x for trace in figure["data"] for x in trace["x"] if x is not None) == 1999


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}
