"""The images of a space, counted in a process of its own: torch is not imported."""

import json
import subprocess
import sys
from dataclasses import dataclass

from okddip_search.errors import UserError
from trainer.config.data import DataConfig
from trainer.registry import DATA_SETS

_COUNTING_S = 600.0
"""Lists of a million files take a network's file system minutes."""


@dataclass(frozen=True)
class Images:
    """Facts about a data set that need no look at a pixel.

    Attributes:
        words: Images of each part, and files that are left out.
        train: Number of training images.
        validation: Number of validation images.
        test: Number of test images.
        channels: 1 (grey) or 3 (RGB), at most.
        classes: Number of classes.
        side: Pixels a side; a guess for arrays of an unknown size.
    """

    words: str
    train: int
    validation: int
    test: int
    channels: int
    classes: int
    side: int


def count_images(data: DataConfig) -> Images:
    """Count the images of each part.

    Raises:
        UserError: They are missing, or cannot be divided as asked, or not be counted.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "trainer.tools.survey"],
            input=data.model_dump_json(),
            capture_output=True,
            text=True,
            timeout=_COUNTING_S,
            check=True,
        )
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise UserError(f"data: the images could not be counted ({error})") from None
    if "error" in found:
        raise UserError(f"data: {found['error']}")
    return Images(
        words=found["words"],
        train=found["train"]["images"],
        validation=found["validation"]["images"],
        test=(found["test"] or {"images": 0})["images"],
        channels=DATA_SETS[data.name].channels or 3,
        classes=found["classes"],
        side=data.image_size or DATA_SETS[data.name].side,
    )
