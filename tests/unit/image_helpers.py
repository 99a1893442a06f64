"""What the tests of the data modules share."""

import torch

from trainer.data.images import ImageSet


def same(a: ImageSet, b: ImageSet) -> bool:
    return (
        torch.equal(a.images_NCHW, b.images_NCHW)
        and torch.equal(a.labels_N, b.labels_N)
        and a.class_names == b.class_names
    )


def rows(images: ImageSet) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.images_NCHW}
