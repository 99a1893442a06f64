"""The division of a training set into training and validation images."""

import torch
from torch import Tensor

from trainer.config.data import DataConfig
from trainer.data.images import DataError, Images, abbreviate, stratified_draw


def divide(images: Images, config: DataConfig) -> tuple[Tensor, Tensor]:
    """Return the indices of the training and of the validation images, int64, ascending.

    Raises:
        DataError: There are too few images for the division asked for.
    """
    generator = torch.Generator().manual_seed(config.split_seed)
    total, asked = len(images), config.validation
    wanted = asked if isinstance(asked, int) else round(asked * total)
    if not 0 < wanted < total:
        raise DataError(
            f"data.validation: {asked} is {wanted} of {total} images, which leaves a part empty; "
            f"ask for 1 to {total - 1} images, or a fraction"
        )
    held_out, rest = stratified_draw(images.labels_N, wanted, generator)
    if config.train_limit is not None:
        if config.train_limit > len(rest):
            raise DataError(
                f"data.train_limit: {config.train_limit} images wanted, {len(rest)} available "
                f"({total} less {wanted} for validation); lower train_limit or validation"
            )
        chosen, _ = stratified_draw(images.labels_N[rest], config.train_limit, generator)
        rest = rest[chosen]
    names = images.class_names
    _require_every_class(images.labels_N[held_out], names, "validation", "raise data.validation")
    remedy = "lower data.validation or raise data.train_limit"
    _require_every_class(images.labels_N[rest], names, "training", remedy)
    return rest, held_out


def _require_every_class(
    labels_N: Tensor, class_names: tuple[str, ...], part: str, remedy: str
) -> None:
    counts_C = labels_N.bincount(minlength=len(class_names))
    absent = [class_names[c] for c in (counts_C == 0).nonzero().flatten().tolist()]
    if absent:
        raise DataError(
            f"no {part} image of {abbreviate(absent)} among {len(labels_N)}: every class needs "
            f"one; {remedy}, or add images"
        )
