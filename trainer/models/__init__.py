"""Networks by name. Each gives a trunk and a branch, from which every group structure is built."""

from trainer.models.architecture import Architecture
from trainer.registry import MODELS, load_object, width_problem

__all__ = ["Architecture", "build_architecture", "check_size"]


def build_architecture(
    name: str, *, channels: int, num_classes: int, width: float = 1.0
) -> Architecture:
    """Return the named network for images of this many channels and classes.

    Args:
        name: A name in ``trainer.registry.MODELS``.
        channels: Image channels, 1 or 3.
        num_classes: C ≥ 2.
        width: Factor on all channel counts, 1 for the published network.

    Raises:
        ValueError: The network does not come in this width.
    """
    if problem := width_problem(name, width):
        raise ValueError(f"width {problem}")
    info = MODELS[name]
    architecture: Architecture = load_object(info.import_path)(
        channels=channels, num_classes=num_classes, width=width, **info.arguments
    )
    return architecture


def check_size(name: str, height: int, width: int) -> None:
    """Check that images are large enough for a network.

    Args:
        name: A name in ``trainer.registry.MODELS``.
        height: Of the images in pixels.
        width: Of the images in pixels.

    Raises:
        ValueError: They are too small; names the network, the size and the smallest size.
    """
    smallest = MODELS[name].min_size
    if min(height, width) < smallest:
        raise ValueError(
            f"{name} cannot be fed images of {height}×{width} pixels: "
            f"it needs at least {smallest}×{smallest}"
        )
