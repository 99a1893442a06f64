"""The data of a run: the training part of a data set, divided with a seed; the test part sealed.

`load_development_data` reads the training part alone (`trainer.data.sources`) and divides it into
training and validation images; `trainer.test_set` is the only caller that asks for the test
part. The pixels are in memory (`ResidentData`) or stay on disk (`StreamedData`); a run sees only
`DevelopmentData`.
"""

from pathlib import Path
from typing import Any

from trainer.config.data import DataConfig
from trainer.data.base import DevelopmentData
from trainer.data.resident import ResidentData, load_resident_data


def load_development_data(config: DataConfig, cache_dir: Path | None = None) -> DevelopmentData:
    """Read the training part of a data set and divide it. No test file is opened.

    The validation images are a stratified draw from the whole training part that depends on
    ``split_seed`` and ``validation`` alone; ``train_limit`` is a stratified draw from the rest.

    Args:
        config: which data, and how to divide it.
        cache_dir: where decoded images are kept, or which can be decoded (`image_folder` only);
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
