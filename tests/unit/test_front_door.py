"""The public names of both packages: typed, and without side effects; one base class of errors."""

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import okddip_search
import trainer
from trainer.errors import TrainerError

ROOT = Path(trainer.__file__).parents[1]
MYPY = """
[mypy]
strict = true
follow_imports = silent
[mypy-torch.*,ray.*,mlflow.*,pandas.*,optuna.*]
follow_imports = skip
ignore_missing_imports = true
"""
RIGHT = f"""
from trainer import {", ".join(trainer.__all__)}

config = TrainConfig(model="resnet20", data=DataConfig(name="digits"), lr_milestones=(0.5,))
reveal_type(config.data)
"""
WRONG = """
from trainer import TrainConfig, TrainConfg

TrainConfig(modle="resnet20")
TrainConfig(model=20)
"""
SEARCHES = """
from okddip_search import Search, load_search, search

reveal_type(search("digits", trials=3).best)
search(spaec="digits")
load_search("runs/digits").confirm(seed=3)
Search.confrim
"""
FILES = {"mypy.ini": MYPY, "right.py": RIGHT, "wrong.py": WRONG, "searches.py": SEARCHES}


def test_a_user_s_type_checker_knows_every_name_and_field(tmp_path: Path) -> None:
    """Without a plugin for pydantic, and strict."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text.strip() + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-pretty", *list(FILES)[1:]],
        cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    found = [line.split(":", 3) for line in done.stdout.splitlines() if ".py:" in line]
    right = [text for file, _, _, text in found if file == "right.py"]
    wrong = [(line, text) for file, line, _, text in found if file == "wrong.py"]
    assert right == [' Revealed type is "trainer.config.data.DataConfig"'], done.stdout
    assert [line for line, _ in wrong] == ["1", "3", "4"], done.stdout
    searches = [(line, text) for file, line, _, text in found if file == "searches.py"]
    assert searches.pop(0)[1] == ' Revealed type is "okddip_search.api.Trial | None"'
    assert {line for line, _ in searches} == {"4", "5", "6"}, done.stdout
    assert 'no attribute "TrainConfg"' in wrong[0][1] and 'argument "modle"' in wrong[1][1]


def test_every_public_name_is_there() -> None:
    for name in trainer.__all__:
        assert getattr(trainer, name).__name__ == name
    for name in set(okddip_search.__all__) - {"__version__"}:
        assert getattr(okddip_search, name).__name__ == name
    with pytest.raises(AttributeError, match="'trainer' has no attribute 'TrainConfg'"):
        trainer.TrainConfg  # noqa: B018


def test_an_import_changes_nothing_in_the_process() -> None:
    code = """
import os, signal, sys
def state():
    umask = os.umask(0)
    os.umask(umask)
    return umask, dict(os.environ), [signal.getsignal(n) for n in signal.valid_signals()]
before = state()
import trainer
assert state() == before, (state(), before)
assert not {"torch", "numpy", "pydantic"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_error_of_the_package_is_a_trainer_error_and_listed() -> None:
    listed = importlib.import_module("trainer.errors").__doc__ or ""
    names = [m.name for m in pkgutil.walk_packages(trainer.__path__, "trainer.")]
    for module in map(importlib.import_module, names):
        for name, value in inspect.getmembers(module, inspect.isclass):
            if issubclass(value, Exception) and value.__module__ == module.__name__:
                assert issubclass(value, TrainerError)
                assert value is TrainerError or f"``{module.__name__}.{name}``" in listed
