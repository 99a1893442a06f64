"""The division of images into parts: every class in each of them, and always the same way."""

from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from trainer.config.data import DataConfig
from trainer.data.images import DataError, Labelled, Part, abbreviate, stratified_draw

_TEST_SEED = 20200
"""Not `split_seed`: another division must not train on images that a test was made with."""


class Divisible(Labelled, Protocol):
    """Labelled images that can be divided."""

    def subset(self, indices: Tensor) -> Self:
        """Return the images at int64 ``indices``, in that order."""


S = TypeVar("S", bound=Divisible)


class Development(NamedTuple, Generic[S]):
    """The images that a run may see.

    Attributes:
        train: To learn from.
        validation: To choose hyperparameters by.
        read: The parts of the data set that they were taken from.
    """

    train: S
    validation: S
    read: tuple[S, ...]


def development(
    config: DataConfig, read: Callable[[Part], S], *, has_validation: bool
) -> Development[S]:
    """Return training and validation images: the data set's own division, or one with a seed.

    Args:
        config: How to divide.
        read: Returns a part.
        has_validation: Whether the data set has validation images of its own.

    Raises:
        DataError: There are too few images for the division asked for.
    """
    everything = read("train")
    if not has_validation:
        train, validation = map(everything.subset, divide(everything, config))
        return Development(train, validation, (everything,))
    validation = read("validation")
    generator = torch.Generator().manual_seed(config.split_seed)
    whole = torch.arange(len(everything.labels_N))
    kept = _limited(whole, everything, config, generator)
    return Development(everything.subset(kept), validation, (everything, validation))


def divide(images: Labelled, config: DataConfig) -> tuple[Tensor, Tensor]:
    """Return the indices of the training and of the validation images, int64, ascending.

    Raises:
        DataError: There are too few images for the division asked for.
    """
    generator = torch.Generator().manual_seed(config.split_seed)
    held_out, rest = _draw(images, "validation", config.validation, 1, config, generator)
    return _limited(rest, images, config, generator), held_out


def divide_test(images: Labelled, config: DataConfig, *, leave: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the other images and of the test images, int64, ascending.

    Args:
        images: All that are there.
        config: How many to draw; its seed has no part in this.
        leave: Images of each class that the other parts need.

    Raises:
        DataError: There are too few images for the division asked for.
    """
    generator = torch.Generator().manual_seed(_TEST_SEED)
    test, rest = _draw(images, "test", config.test, leave, config, generator)
    return rest, test


def _draw(
    images: Labelled,
    part: Part,
    asked: float,
    leave: int,
    config: DataConfig,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draw a part of the images; return the indices of the drawn ones and of the others."""
    labels_N = images.labels_N
    total = len(labels_N)
    wanted = asked if isinstance(asked, int) else round(asked * total)
    if not 0 < wanted < total:
        raise DataError(
            f"data.{part}: {asked} is {wanted} of {total} images, which leaves a part empty; "
            f"ask for 1 to {total - 1} images, or a fraction"
        )
    sizes_C = labels_N.bincount(minlength=len(images.class_names))
    rare_C = (sizes_C > 0) & (sizes_C <= leave)
    if rare_C.any() and config.rare_classes == "refuse":
        raise _too_rare(images, rare_C, part, leave)
    common = (~rare_C[labels_N]).nonzero().flatten()
    if isinstance(asked, float):  # a fraction is meant roughly, and every class needs an image
        wanted = max(wanted, int((sizes_C > leave).sum()))
    if wanted > len(common):
        raise DataError(
            f"data.{part}: {wanted} images wanted, but {total - len(common)} of {total} are of "
            f"classes with at most {leave} and are trained on (data.rare_classes); ask for fewer"
        )
    drawn, _ = stratified_draw(labels_N[common], wanted, generator, leave=leave)
    is_drawn_N = torch.zeros(total, dtype=torch.bool)
    is_drawn_N[common[drawn]] = True
    held_out, rest = is_drawn_N.nonzero().flatten(), (~is_drawn_N).nonzero().flatten()
    names = images.class_names
    _require_classes(labels_N[held_out], ~rare_C, names, part, f"raise data.{part}")
    _require_classes(labels_N[rest], sizes_C >= 0, names, "training", f"lower data.{part}")
    return held_out, rest


def _limited(
    rest: Tensor, images: Labelled, config: DataConfig, generator: torch.Generator
) -> Tensor:
    """Draw `train_limit` of the training images, if there is a limit."""
    if config.train_limit is None:
        return rest
    if config.train_limit > len(rest):
        total = len(images.labels_N)
        raise DataError(
            f"data.train_limit: {config.train_limit} images wanted, {len(rest)} available "
            f"({total} less {total - len(rest)} for validation); lower train_limit or validation"
        )
    chosen, _ = stratified_draw(images.labels_N[rest], config.train_limit, generator)
    needed_C = torch.ones(len(images.class_names), dtype=torch.bool)
    remedy = "lower data.validation or raise data.train_limit"
    labels_N = images.labels_N[rest[chosen]]
    _require_classes(labels_N, needed_C, images.class_names, "training", remedy)
    return rest[chosen]


def _too_rare(images: Labelled, rare_C: Tensor, part: Part, leave: int) -> DataError:
    names = [images.class_names[c] for c in rare_C.nonzero().flatten().tolist()]
    many = "a single image" if leave == 1 else f"at most {leave} images"
    parts = "training and validation" if part == "validation" else "training, validation and test"
    off = ", or data.test: 0 to seal no test images" if part == "test" else ""
    if leave == 1 and part == "test":
        parts = "training and test"
    return DataError(
        f"{abbreviate(names)}: {many} in a class, and {parts} images need one of each; add images, "
        f"remove the class, or set data.rare_classes: train to keep it among the training "
        f"images{off}"
    )


def _require_classes(
    labels_N: Tensor, needed_C: Tensor, class_names: tuple[str, ...], part: str, remedy: str
) -> None:
    counts_C = labels_N.bincount(minlength=len(class_names))
    absent = [class_names[c] for c in ((counts_C == 0) & needed_C).nonzero().flatten().tolist()]
    if absent:
        raise DataError(
            f"no {part} image of {abbreviate(absent)} among {len(labels_N)}: every class needs "
            f"one; {remedy}, or add images"
        )
