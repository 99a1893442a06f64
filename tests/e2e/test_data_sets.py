"""Searches over images as people have them: every kind from the command to the result."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from search_helpers import run, write_space
from sklearn.datasets import load_digits

SPACE = """\
name: brought
data: DATA
trainer: {model: resnet8, width: 0.25, num_peers: 2, batch_size: 16, epochs: 1}
search:
  lr: {type: float, low: 0.01, high: 0.2, log: true}
study: {trials: 1}
confirm: {top: 1, seeds: 2, methods: [single]}
"""
DIGITS = load_digits(n_class=3)
PIXELS = (DIGITS.images * 15.9375).astype(np.uint8)


def classes_alone(folder):
    for number in range(120):
        place = folder / "set" / str(DIGITS.target[number]) / "session"
        place.mkdir(parents=True, exist_ok=True)
        suffix = (".webp", ".bmp", ".tif", ".png")[number % 4]
        Image.fromarray(PIXELS[number]).save(place / f"{number}{suffix}")
    (folder / "set" / "0" / "notes.txt").touch()
    return "image_folder", "set"


def table(folder):
    (folder / "pictures").mkdir()
    with (folder / "set.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for number in range(120):
            Image.fromarray(PIXELS[number]).save(folder / "pictures" / f"{number}.png")
            split = "val" if 76 <= number < 96 else "test" if number >= 96 else "train"
            writer.writerow([f"pictures/{number}.png", DIGITS.target[number], split])
    return "csv", "set.csv"


def arrays(folder):
    parts = {"train": (0, 76), "val": (76, 96), "test": (96, 120)}
    np.savez(
        folder / "set.npz",
        **{f"{part}_images": PIXELS[slice(*span)] for part, span in parts.items()},
        **{f"{part}_labels": DIGITS.target[slice(*span), None] for part, span in parts.items()},
    )
    return "npz", "$PLACE/set.npz"


def idx(folder):
    bunch = load_digits()
    for stem, span in (("train", slice(96)), ("t10k", slice(96, 120))):
        images = (bunch.images[span] * 15.9375).astype(np.uint8)
        labels = bunch.target[span].astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            header = bytes((0, 0, 8, array.ndim)) + sizes
            (folder / f"{stem}-{name}-ubyte").write_bytes(header + array.tobytes())
    return "kmnist", "."


@pytest.mark.slow
@pytest.mark.parametrize("kind", [classes_alone, table, arrays, idx])
def test_a_search_counts_what_it_is_brought_confirms_and_opens_the_sealed_part(
    tmp_path, monkeypatch, kind
):
    monkeypatch.setenv("PLACE", str(tmp_path))
    name, root = kind(tmp_path)
    data = {"name": name, "root": root, "image_size": 8, "validation": 20}
    space = write_space(tmp_path, SPACE.replace("DATA", json.dumps(data)))
    done = run("--space", space, "--out", "run", "--gpus", 0, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "images: 76 training, 20 validation, 24 sealed test; " in done.stdout
    result = json.loads((tmp_path / "run" / "trials" / "0" / "result.json").read_text())
    assert result["images"]["train"] == {
        "images": 76,
        "classes": 10 if kind is idx else 3,
    }
    openings = [
        json.loads(line)
        for line in (tmp_path / "run" / "test_openings.jsonl").read_text().splitlines()
    ]
    assert {line["num_images"] for line in openings if line["event"] == "result"} == {24}
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["provenance"]["images"].startswith("images: 76 training, 20 validation, ")
    if kind is classes_alone:
        assert result["images"]["left_out"] == {".txt": 1}
        assert "left out: 1 .txt file" in done.stdout
