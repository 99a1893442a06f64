"""How many images and classes each part has, and which files were left out, and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trainer.config.data import DataConfig
from trainer.data.images import DataError, Labelled, Labels
from trainer.data.parts import has_validation, labels_of, open_source, require_part
from trainer.data.splits import Development, development
from trainer.registry import DATA_SETS

Survey = Mapping[str, Any]
"""Plain values: ``train``, ``validation`` and ``test`` (None: there is none) with the number of
``images`` and of ``classes`` that have one; ``classes`` in all; ``left_out``, counts by reason."""

_SHOWN = 8
"""Reasons in a line; `result.json` has them all."""


def survey(config: DataConfig) -> Survey:
    """Count the images of a data set without opening one.

    Raises:
        DataError: The files are missing, or too few for the division asked for.
    """
    images = DATA_SETS[config.name].images
    if images is None:
        labels = development(
            config, lambda part: labels_of(config, part), has_validation=has_validation(config)
        )
        return survey_of(config, labels, skipped=0)
    require_part(config, "train")
    classes = DATA_SETS[config.name].classes or 0
    even = Labels(torch.arange(images[0]) % classes, tuple(map(str, range(classes))))
    return survey_of(config, development(config, lambda _: even, has_validation=False), skipped=0)


def survey_of(config: DataConfig, data: Development[Any], *, skipped: int) -> Survey:
    """Count the images that were read, and those of the test part, of which none is opened.

    Args:
        config: Which data set.
        data: Its training and validation images.
        skipped: Images that could not be decoded.
    """
    left_out = sum((Counter(part.left_out) for part in data.read), Counter[str]())
    test = _test(config, left_out)
    used = len(data.train.labels_N) + len(data.validation.labels_N)
    left_out["images beyond data.train_limit"] += (
        sum(len(part.labels_N) for part in data.read) - used
    )
    left_out["images that cannot be decoded"] += skipped
    return {
        "train": _counted(data.train),
        "validation": _counted(data.validation),
        "test": test,
        "classes": len(data.train.class_names),
        "left_out": dict(sorted((+left_out).items())),
    }


def _counted(images: Labelled) -> dict[str, int]:
    return {"images": len(images.labels_N), "classes": int((images.labels_N.bincount() > 0).sum())}


def _test(config: DataConfig, left_out: Counter[str]) -> dict[str, int] | None:
    """Count the test images, and what lies beside them; None: there are none that can be used."""
    info = DATA_SETS[config.name]
    try:
        if info.images is not None:
            require_part(config, "test")
            return {"images": info.images[1], "classes": info.classes or 0}
        test = labels_of(config, "test")
        if "test" in open_source(config).parts():
            left_out.update(test.left_out)
    except DataError:  # it stands in the way of a confirmation alone, which says so
        return None
    return _counted(test)


def describe(found: Survey) -> str:
    """Return the counts in a line, and a second one for files that were left out."""
    words = {"train": "training", "validation": "validation", "test": "sealed test"}
    texts = [_words(found[part], word, found["classes"]) for part, word in words.items()]
    line = f"images: {', '.join(texts)}; {found['classes']} classes"
    if not found["left_out"]:
        return line
    return f"{line}\nleft out: {describe_left_out(found['left_out'])}"


def _words(part: Mapping[str, int] | None, word: str, classes: int) -> str:
    if part is None:
        return f"no {word}"
    fewer = f" (of {part['classes']} classes)" if part["classes"] != classes else ""
    return f"{part['images']:,} {word}{fewer}"


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """Return counts by reason in words, the largest first and small ones together."""
    ranked: Sequence[tuple[str, int]] = sorted(left_out.items(), key=lambda item: -item[1])
    texts = [f"{count:,} {_files(reason, count)}" for reason, count in ranked[:_SHOWN]]
    if rest := sum(count for _, count in ranked[_SHOWN:]):
        texts.append(f"{rest:,} others")
    return ", ".join(texts)


def _files(reason: str, count: int) -> str:
    if not reason.startswith("."):
        return reason
    return f"{reason} file" if count == 1 else f"{reason} files"
