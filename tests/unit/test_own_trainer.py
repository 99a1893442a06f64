"""Another package's ``trainer`` in the way of ours is named, with the remedy, in one line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import okddip_search

ROOT = Path(okddip_search.__file__).parents[1]
COQUI = "from trainer.model import *\nfrom trainer.trainer import *\n"


def refused(*arguments, cwd, path=()):
    """Run Python and return its error, which must be the user's to mend."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--space", "digits"]])
def test_another_trainer_is_named_with_the_remedy(tmp_path, arguments):
    foreign = tmp_path / "site" / "trainer" / "__init__.py"
    foreign.parent.mkdir(parents=True)
    foreign.write_text(COQUI)
    facts = tmp_path / "site" / "trainer-0.0.36.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: trainer\nVersion: 0.0.36\n")
    (facts / "top_level.txt").write_text("trainer\n")
    error = refused("-m", "okddip_search", *arguments, cwd=tmp_path, path=[tmp_path / "site"])
    assert str(foreign) in error and "distribution trainer" in error
    assert "an environment of its own" in error


@pytest.mark.parametrize("name", ["trainer.py", "trainer/__init__.py"])
def test_a_trainer_in_the_working_directory_is_named(tmp_path, name):
    (tmp_path / "trainer").mkdir()
    (tmp_path / name).write_text("print('mine')\n")
    error = refused("-m", "okddip_search", "--help", cwd=tmp_path)
    assert str(tmp_path / name) in error
    assert "in another folder, or rename" in error


def test_a_folder_called_trainer_is_in_nobodys_way(tmp_path):
    (tmp_path / "trainer").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "okddip_search", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0


def test_a_trainer_that_was_written_over_is_not_taken_for_ours(tmp_path):
    """Two packages installed into one environment share the folder; the later one's file stays."""
    for package in ("okddip_search", "trainer"):
        shutil.copytree(ROOT / package, tmp_path / "site" / package)
    (tmp_path / "site" / "trainer" / "__init__.py").write_text(COQUI)
    error = refused("-m", "okddip_search", "--help", cwd=tmp_path, path=[tmp_path / "site"])
    assert str(tmp_path / "site" / "trainer" / "__init__.py") in error
