"""Which images to train on, and how they are divided."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from trainer.config.strict import ConfigError, Count, Fraction, StrictModel
from trainer.io.text import is_plain, truncate
from trainer.registry import DATA_SETS

if TYPE_CHECKING:
    DatasetName = str
else:  # one line in the registry is all that a new data set takes
    DatasetName = Literal[tuple(DATA_SETS)]


def require_plain(field: str, text: object) -> None:
    """Refuse a path that no system call takes, or that a terminal would obey in a message."""
    if isinstance(text, str) and not is_plain(text):
        raise ConfigError([((field,), f"{truncate(repr(text))} has a control character")])


class DataConfig(StrictModel):
    """Which images to train on, and how the training set is divided."""

    name: DatasetName = Field(default="digits", description="data set")
    root: str | None = Field(
        default=None,
        description="folder of the files, or the file of csv, parquet and npz; ~, $HOME and ${VAR} "
        "are replaced; null: the data set's usual place (digits need none)",
    )
    download: bool = Field(
        default=False, description="fetch the original files of cifar10, cifar100 or *mnist"
    )
    image_size: Annotated[int, Field(ge=8, le=512)] | None = Field(
        default=None,
        description="pixels a side after resizing; null: native; image files need it",
    )
    validation: Count | Fraction = Field(
        default=0.1,
        description="validation images: a fraction of the training set, or their number",
    )
    own_validation: bool = Field(
        default=True,
        description="take the data set's own validation images where it has some, and draw none",
    )
    test: Annotated[int, Field(ge=0)] | Fraction = Field(
        default=0.2,
        description="images that are sealed for the test where the data set has no test part: a "
        "fraction of the training set, or their number; 0: none",
    )
    rare_classes: Literal["refuse", "train"] = Field(
        default="refuse",
        description="classes with too few images for every part: an error, or trained on alone",
    )
    train_limit: Count | None = Field(
        default=None, description="train on a stratified subset of so many images; null: all"
    )
    split_seed: int = Field(
        default=0, ge=0, lt=2**63, description="seed of the split; shared by all trials"
    )
    pad: Annotated[int, Field(ge=0, le=64)] | None = Field(
        default=None, description="pixels of zero padding before the random crop; null: as usual"
    )
    flip: bool | None = Field(
        default=None, description="horizontal flip; null: as usual (off where it changes the class)"
    )
    streaming: bool = Field(
        default=False,
        description="image files: decode from disk in every epoch, crop at random sizes",
    )
    corrupt: Literal["fatal", "skip"] = Field(
        default="fatal",
        description="image files: what those that cannot be decoded are: an error that lists "
        "them, or left out and listed in a file",
    )
    workers: Annotated[int, Field(ge=0, le=256)] | None = Field(
        default=None,
        description="streaming: processes that decode; null: on a GPU one a thread of the run, "
        "less one, at most 16; on the CPU none",
    )

    @model_validator(mode="after")
    def _streaming_fits(self) -> Self:
        in_memory = not DATA_SETS[self.name].has_files
        problems = {
            "streaming": self.streaming and in_memory,
            "corrupt": self.corrupt == "skip" and in_memory,
            "pad": self.streaming and self.pad is not None,
            "workers": not self.streaming and self.workers is not None,
        }
        texts = {
            "streaming": f"{self.name} is held in memory; only image files can be streamed",
            "corrupt": f"{self.name} is checked as a whole; only image files can be in part",
            "pad": "streaming crops at random sizes and pads nothing; leave it out",
            "workers": "only streaming decodes in processes of its own; leave it out",
        }
        if any(problems.values()):
            raise ConfigError([((key,), texts[key]) for key, bad in problems.items() if bad])
        return self

    @model_validator(mode="after")
    def _root_can_be_a_path(self) -> Self:
        require_plain("root", self.root)
        return self

    @model_validator(mode="after")
    def _says_where_and_how_large(self) -> Self:
        info = DATA_SETS[self.name]
        needed = {"root": info.needs_root, "image_size": info.has_files}
        missing = [key for key, needs in needed.items() if needs and getattr(self, key) is None]
        if missing:
            raise ConfigError([((key,), f"{self.name} needs it") for key in missing])
        return self
