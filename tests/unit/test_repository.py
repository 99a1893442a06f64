"""The files around the code are valid, and say what the code and its build say."""

import re
import tomllib
from pathlib import Path

import check_jsonschema
import pytest
import yaml
from click.testing import CliRunner

from okddip_search import __version__

ROOT = Path(__file__).parents[2]
MAKE = re.compile(r"\bmake \w+(?: \w+=\w+)*")  # a call, with the variables it sets


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("github-workflows", ".github/workflows/*.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/*.yml"),
        ("dependabot", ".github/dependabot.yml"),
        ("citation-file-format", "CITATION.cff"),
    ],
)
def test_what_others_read_follows_its_public_schema(schema, pattern):
    files = [str(path) for path in ROOT.glob(pattern)]
    assert files
    checked = CliRunner().invoke(
        check_jsonschema.main, ["--builtin-schema", f"vendor.{schema}", *files]
    )
    assert checked.exit_code == 0, checked.output


def test_the_workflow_runs_the_same_make_targets_as_the_ci_script():
    (job,) = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"].values()
    in_workflow = MAKE.findall("\n".join(step.get("run", "") for step in job["steps"]))
    in_script = MAKE.findall(re.sub(r"#.*", "", read(".ci/run")))
    assert in_workflow == ["make install", *in_script]
    targets = re.findall(r"^(\w+):", read("Makefile"), re.MULTILINE)
    assert {call.split()[1] for call in in_workflow} <= set(targets)


def test_the_workflow_runs_on_every_python_that_the_metadata_names():
    (job,) = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"].values()
    classifiers = tomllib.loads(read("pyproject.toml"))["project"]["classifiers"]
    named = re.findall(r"Programming Language :: Python :: (3\.\d+)", "\n".join(classifiers))
    assert job["strategy"]["matrix"]["python"] == named


def test_a_commit_is_checked_by_all_that_make_lint_runs():
    rule = re.search(r"^lint:.*\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE)
    in_lint = set(re.findall(r"\$\(BIN\)/(\S+)", rule[1]))
    (hooks,) = (repo["hooks"] for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"])
    in_hooks = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    assert in_lint
    assert in_lint <= in_hooks


def test_the_changelogs_newest_version_is_this_one():
    headings = re.findall(r"^## \[(.+)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[:2] == ["Unreleased", __version__]


def test_links_between_documents_lead_somewhere():
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    broken = [
        (document.name, link)
        for document in documents
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8"))
        if not (document.parent / link).exists()
    ]
    assert len(documents) > 2
    assert broken == []


def test_every_place_that_the_guide_sends_contributors_to_exists():
    places = list(places_in_the_guide())
    assert len(places) > 40
    assert [place for place in places if not any(ROOT.glob(place))] == []


def places_in_the_guide():
    """Yield a pattern for each path in CONTRIBUTING's tables.

    A table headed by a package has paths inside it; a test may be named without its folder.
    """
    package = ""
    for line in read("CONTRIBUTING.md").splitlines():
        if header := re.fullmatch(r"\| `(\w+/)` \| \|", line):
            package = header[1]
        elif line.startswith("| to add"):
            package = ""
        elif line.startswith("|"):
            for path in re.findall(r"`([\w./]+(?:/|\.py))`", line):
                yield package + path if package or "/" in path else f"tests/**/{path}"
