"""docs/datasets.md: its example is all that a data set takes, and its list is whole."""

import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.datasets import load_digits

from trainer.registry import DATA_SETS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "datasets.md").read_text()
SOURCE, LINE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CHECK = """
from trainer.config.data import DataConfig
from trainer.data.load import load_development_data
from trainer.data.parts import read_part
from trainer.data.survey import survey

config = DataConfig(name="usps", root="usps", image_size=8, validation=20)
data = load_development_data(config)
print(len(data.train), len(data.validation), len(read_part(config, "test")), data.train.size)
print(survey(config)["test"], data.flip)
"""


def write_usps(folder: Path) -> None:
    bunch = load_digits()
    folder.mkdir()
    for part, (first, last) in {"train": (0, 100), "test": (100, 130)}.items():
        with gzip.open(folder / f"zip.{part}.gz", "wt") as file:
            for image, label in zip(
                bunch.images[first:last], bunch.target[first:last], strict=True
            ):
                values = (image.repeat(2, axis=0).repeat(2, axis=1) / 8 - 1).flatten()
                file.write(" ".join([f"{label:.4f}", *(f"{v:.4f}" for v in values)]) + "\n")


def test_the_example_is_a_data_set_in_under_forty_lines(tmp_path):
    assert len((SOURCE + LINE).splitlines()) < 40
    shutil.copytree(ROOT / "trainer", tmp_path / "trainer")
    (tmp_path / "trainer" / "data" / "sources" / "usps.py").write_text(SOURCE)
    registry = tmp_path / "trainer" / "registry.py"
    opening = "DATA_SETS: dict[str, DataSetInfo] = {\n"
    assert registry.read_text().count(opening) == 1
    registry.write_text(registry.read_text().replace(opening, f"{opening}    {LINE}"))
    write_usps(tmp_path / "usps")
    done = subprocess.run(
        [sys.executable, "-c", CHECK], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "80 20 30 (8, 8)", "{'images': 2007, 'classes': 10} False"
    ]  # fmt: skip


@pytest.mark.parametrize("name", DATA_SETS)
def test_the_page_lists_every_data_set(name):
    assert f"`{name}`" in PAGE


def test_every_entry_of_the_registry_is_a_source():
    from trainer.data.sources.base import Source
    from trainer.registry import load_object

    assert all(issubclass(load_object(info.import_path), Source) for info in DATA_SETS.values())
