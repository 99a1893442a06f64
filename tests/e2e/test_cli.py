"""What a user meets at the command line before any search starts."""

import re
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from search_helpers import SPACE, run, write_space

from okddip_search.space.load import bundled_spaces


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--explain"], ["spaces"], ["schema"], ["train", "--help"], ["version"]],
)
def test_it_answers_without_importing_torch_ray_or_mlflow(tmp_path, arguments):
    probe = (
        "import sys\n"
        "from okddip_search.cli.main import cli\n"  # main() would end the process
        "try:\n    cli(prog_name='okddip-search')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'ray', 'mlflow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def test_the_help_gives_each_example_a_line_of_its_own(tmp_path):
    lines = [line.split() for line in run("--help", cwd=tmp_path).stdout.splitlines()]
    examples = [words for words in lines if words[:1] == ["okddip-search"]]
    assert [words[1:3] for words in examples] == [
        ["digits", "on"],
        ["--space", "cifar100.yaml"],
        ["--space", "cifar100.yaml"],
    ]
    assert examples[-1][3:] == "--resume resume after a stop or a crash".split()
    assert not any("\\b" in word for words in lines for word in words)


def test_explain_shows_the_space_the_budget_and_the_first_trials(tmp_path):
    done = run("--space", write_space(tmp_path), "--explain", "--gpus", 0, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in (
        "temperature:",
        "8 finished trials of at most 8 epochs",
        "trial 0 (enqueued): lr=0.1  temperature=3",
        "trial 1 (random): lr=",
        "checkpoints of",
        "networks of the best 3 trials",
        "study.journal",
    ):
        assert words in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tracking-uri", "mlruns"], "Write sqlite:////"),
        (["--tracking-uri", "localhost:5000"], "Write http://localhost:5000"),
        (["--gpus", "99"], "there are only"),
        (["--out", "tiny.yaml/x"], "tiny.yaml is no folder"),
        (["--out", "begun"], "holds a search already"),
    ],
)
def test_explain_refuses_what_would_fail(tmp_path, options, words):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "study.journal").touch()
    done = run("--space", write_space(tmp_path), "--explain", *options, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_explain_says_whether_a_tracking_server_answers(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    explain = ["--space", write_space(tmp_path), "--explain", "--tracking-uri", uri]
    done = run(*explain, cwd=tmp_path)
    assert done.returncode == 0 and f"{uri} does not answer now" in done.stdout, done.stderr


def test_explain_says_how_trials_are_screened(tmp_path):
    screened = ("--set", "study.searcher=screen")
    done = run("--space", write_space(tmp_path), "--explain", *screened, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in (
        "8 trials of 3 epochs each",
        "the most promising ones go on to epoch 8: about 5 of them",
        "trial 1 (gp): lr=",
        "at most 8 paused trials",
    ):
        assert words in done.stdout


def test_explain_shows_the_plan_of_a_budget(tmp_path):
    confirm = "confirm={top: 1, methods: [single]}"
    options = ("--budget", "20m", "--set", "study.searcher=screen", "--set", confirm)
    done = run("--space", write_space(tmp_path), "--explain", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in (
        r"20:00 for everything, \d+ trials at a time",
        r"an epoch takes [\d.]+ s in the middle of the space, [\d.]+ s with its largest",
        r"the search has \d+:\d\d: [\d,]+ to [\d,]+ epochs, \d+ to \d+ trials of 3 epochs, "
        r"\d+ to \d+ of which go on to epoch 8",
        r"kept back for the confirmation: \d:\d\d, 10 seeds each",
        r"kept back to finish: 0:36",
        r"with up to 10 seeds each",
    ):
        assert re.search(words, done.stdout), words
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize("only", [(), ("--explain",)], ids=["search", "explain"])
def test_a_budget_below_two_full_runs_is_refused_before_anything_starts(tmp_path, only):
    space = write_space(tmp_path)
    done = run("--space", space, "--budget", "20s", "--out", "runs/t", *only, cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    assert "two full runs do not fit into 0:20: an epoch takes " in done.stderr
    assert re.search(r"The smallest budget that would do: \d+s", done.stderr)
    assert not list(tmp_path.glob("runs/t/study.journal"))
    assert not list(tmp_path.glob("runs/t/mlflow.db"))


def test_bundled_spaces_are_listed_and_found_from_any_directory(tmp_path):
    listed = run("spaces", cwd=tmp_path)
    assert set(bundled_spaces()) == {line.split()[0] for line in listed.stdout.splitlines()}
    found = run("--space", "digits.yaml", "--explain", cwd=tmp_path)
    assert found.returncode == 0, found.stderr


def test_an_existing_file_wins_over_a_bundled_one(tmp_path):
    (tmp_path / "digits.yaml").write_text(SPACE)
    done = run("--space", "digits.yaml", "--explain", cwd=tmp_path)
    assert "name: tiny" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--space", "cifer10.yaml"], "did you mean 'cifar10.yaml'"),
        (["--space", "tiny.yaml", "--gpus", "4096"], "there are only"),
        # Told before the images are looked for, which are not there either.
        (
            ["--space", "tiny.yaml", "--set", "data={name: cifar10, root: x}", "--gpus", "64"],
            "there are only",
        ),
        (["--space", "tiny.yaml", "--set", "trainer.epoch=3"], "did you mean 'epochs'"),
        (["--space", "tiny.yaml", "--set", "trainer.epochs=0"], "--set trainer.epochs"),
        (["--space", "tiny.yaml", "--timeout", "soon"], "--timeout"),
        (["--space", "tiny.yaml", "--budget", "8 parsecs"], "--budget: '8 parsecs' is not"),
        (["--space", "tiny.yaml", "--set", "study.searcher=scren"], "did you mean 'screen'"),
        (
            ["--space", "cifar10_small.yaml", "--budget", "1h", "--explain"],
            "data: cannot list ",
        ),
        (["--space", "tiny.yaml", "--set", "data.name=cifar10"], "data.root"),
        (["--space", "tiny.yaml", "--set", "trainer.device=cuda", "--gpus", "0"], "cuda"),
        (["--resume", "--out", "nowhere"], "holds no search"),
        (["export", "nowhere"], "best.yaml"),
        (["ui", "nowhere"], "nowhere"),
        (["sync", "nowhere"], "nowhere"),
        (["train", "nowhere.yaml", "--out", "x"], "nowhere.yaml"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_a_mistake_is_told_with_its_remedy(tmp_path, arguments, words):
    write_space(tmp_path)
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_wrong_space_names_file_and_line(tmp_path):
    write_space(tmp_path, SPACE.replace("log: true", "logg: true"))
    done = run("--space", "tiny.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "tiny.yaml:5:" in done.stderr
    assert "did you mean 'log'" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_space_that_changed_is_refused_on_resume(tmp_path):
    first = run("--space", write_space(tmp_path), "--out", "out", "--trials", 1, cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    write_space(tmp_path, SPACE.replace("high: 0.3", "high: 0.2"))
    done = run("--space", "tiny.yaml", "--out", "out", "--resume", cwd=tmp_path)
    assert done.returncode == 2
    assert "search.lr.high was 0.3, is 0.2 now" in done.stderr


def test_an_impossible_directory_is_told_without_a_traceback(tmp_path):
    (tmp_path / "file").write_text("")
    write_space(tmp_path)
    done = run("--space", "tiny.yaml", "--out", "file/below", cwd=tmp_path)
    assert done.returncode == 2
    assert "file/below" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_budget_and_resources_may_change_on_resume(tmp_path):
    first = run("--space", write_space(tmp_path), "--out", "out", "--trials", 1, cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    done = run(
        "--resume", "--out", "out", "--set", "study.trials=2", "--set", "study.pruner.type=none",
        "--set", "resources.max_concurrent=1", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 trials at a time" in done.stdout
    saved = (tmp_path / "out" / "spec.yaml").read_text()
    assert "max_concurrent: 1" in saved and "trials: 2" in saved


def test_the_version_is_told_with_all_that_a_bug_report_needs_and_nothing_personal(tmp_path):
    short = run("version", cwd=tmp_path).stdout
    verbose = run("version", "--verbose", cwd=tmp_path).stdout
    assert verbose.startswith(short) and len(short.splitlines()) == 1
    facts = dict(line.split(maxsplit=1) for line in verbose.splitlines())
    assert facts["ray"] == version("ray") and facts["mlflow"] == version("mlflow")
    assert version("torch").split("+")[0] in facts["torch"]
    assert {"Python", "driver", "GPUs", "optuna", "cores", "disk", "locale"} <= facts.keys()
    for name in (str(tmp_path), str(Path.home()), socket.gethostname()):
        assert name not in verbose


@pytest.mark.parametrize(
    "command", ["okddip_search.cli.main import main", "trainer.__main__ import main"]
)
def test_windows_is_refused_in_one_line(command):
    code = f"import click, sys; sys.platform = 'win32'; from {command}; main()"
    done = subprocess.run([sys.executable, "-c", code, "x.yaml"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: Windows is not supported") and "WSL 2" in done.stderr
    assert len(done.stderr.splitlines()) == 1
