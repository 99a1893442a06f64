"""Classes of images that lie together in one folder, as Tiny-ImageNet and ImageNet publish them."""

import csv
from pathlib import Path

from trainer.data.decoding import file_errors
from trainer.data.images import DataError

_DEVKIT = Path("ILSVRC2012_devkit_t12", "data")


def annotated_classes(folder: Path, root: Path) -> dict[str, str] | None:
    """Return the class of each image of a part by the name of its file; None: no file says so.

    Known are Tiny-ImageNet's ``val/val_annotations.txt``, ImageNet's ``LOC_val_solution.csv``
    (Kaggle) and the devkit of ILSVRC 2012, which is looked for in the root and above it.

    Args:
        folder: Of the part.
        root: Of the data set.

    Raises:
        DataError: Such a file cannot be read.
    """
    with file_errors(folder):
        if (path := folder / f"{folder.name}_annotations.txt").is_file():
            return _tiny_imagenet(path)
        if folder.name not in ("val", "ILSVRC2012_img_val"):
            return None
        for place in (root, *root.parents[:3]):
            if (path := place / "LOC_val_solution.csv").is_file():
                return _kaggle(path)
            if (path := place / _DEVKIT / "ILSVRC2012_validation_ground_truth.txt").is_file():
                return _devkit(path)
    return None


def _tiny_imagenet(path: Path) -> dict[str, str]:
    rows = [line.split("\t") for line in path.read_text().splitlines() if line.strip()]
    if any(len(row) < 2 for row in rows):
        raise DataError(f"{path}: expected lines of a file's name, a tab and its class")
    return {row[0]: row[1] for row in rows}


def _kaggle(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return {f"{row['ImageId']}.JPEG": row["PredictionString"].split()[0] for row in rows}
    except (KeyError, IndexError, AttributeError):
        raise DataError(f"{path}: expected columns ImageId and PredictionString") from None


def _devkit(path: Path) -> dict[str, str]:
    """Read the numbers of the classes, a line an image, and their names from ``meta.mat``."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(path.with_name("meta.mat"), squeeze_me=True)["synsets"]
        names = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
        numbers = [int(line) for line in path.read_text().split()]
        return {
            f"ILSVRC2012_val_{place:08}.JPEG": names[number]
            for place, number in enumerate(numbers, 1)
        }
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise DataError(f"{path.parent}: no complete devkit of ILSVRC 2012 ({error})") from error
