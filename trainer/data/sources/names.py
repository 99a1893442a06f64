"""The names that people give to the parts of a data set."""

from collections.abc import Mapping

from trainer.data.images import Part

PART_NAMES: Mapping[Part, frozenset[str]] = {
    "train": frozenset({"train", "training", "ilsvrc2012_img_train"}),
    "validation": frozenset({"val", "valid", "validation", "dev", "eval", "ilsvrc2012_img_val"}),
    "test": frozenset({"test", "testing", "ilsvrc2012_img_test"}),
}


def part_named(name: str) -> Part | None:
    """Return the part that a folder's name or a table's entry stands for."""
    return next((part for part, names in PART_NAMES.items() if name.casefold() in names), None)
