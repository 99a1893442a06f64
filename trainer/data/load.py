"""The data of a run: training and validation images; the test part stays sealed.

`load_development_data` reads the training part (`trainer.data.parts`) and divides it with a seed,
unless the data set has validation images of its own; `trainer.test_set` is the only caller that
reads the test part. The pixels are in memory (`ResidentData`) or stay on disk (`StreamedData`); a
run sees only `DevelopmentData`.
"""

from pathlib import Path
from typing import Any

from trainer.config.data import DataConfig
from trainer.data.base import DevelopmentData
from trainer.data.resident import ResidentData, load_resident_data


def load_development_data(config: DataConfig, cache_dir: Path | None = None) -> DevelopmentData:
    """Read the training and validation images of a data set. No test image is opened.

    Unless the data set has its own, the validation images are a stratified draw from the training
    part that depends on ``split_seed`` and ``validation`` alone; ``train_limit`` is a stratified
    draw from the rest. Without a test part, test images are drawn before, and stay on disk.

    Args:
        config: which data, and how to divide it.
        cache_dir: where decoded images are kept, or which can be decoded (image files only);
            None: nowhere.

    Raises:
        DataError: the files are missing or damaged, or too few for the division asked for.
    """
    if config.streaming:
        from trainer.data.streaming import load_streamed_data  # torchvision takes a second

        return load_streamed_data(config, cache_dir)
    return load_resident_data(config, cache_dir)


def development_data_from_arrays(arrays: dict[str, Any]) -> DevelopmentData:
    """Undo `DevelopmentData.to_arrays` without copying, also where the arrays are read-only."""
    if not arrays["streaming"]:
        return ResidentData.restored(arrays)
    from trainer.data.streaming import StreamedData  # torchvision takes a second

    return StreamedData.restored(arrays)
