"""The test set, sealed: opened by this one function, and every opening is written down."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from trainer.config.data import DataConfig
from trainer.data.batches import Batch, EvaluationBatches
from trainer.data.image_files import read_image_files
from trainer.data.images import DataError, Images, abbreviate
from trainer.data.parts import read_part
from trainer.errors import TrainerError
from trainer.io.files import append_json, read_json_lines
from trainer.leader.files import weights_sha256
from trainer.leader.leader import LeaderInfo, load_info, load_leader

logger = logging.getLogger(__name__)

BATCH = 512


class OpeningError(TrainerError, ValueError):
    """An opening was made for other leaders than those that are asked for now."""


@dataclass(frozen=True)
class TestResult:
    """How a leader does on the test set.

    Attributes:
        accuracy: Share in [0, 1].
        nll: Negative log-likelihood, nats.
        num_images: Size of the test set.
    """

    accuracy: float
    nll: float
    num_images: int


@dataclass(frozen=True)
class Opening:
    """One opening of the test set, as recorded in its log.

    Attributes:
        time: When it was opened (ISO 8601, UTC); its name in the log.
        reason: Who opened it and what for.
        leaders: Digest of the weights of each leader it was opened for, by the leader's folder:
            relative to the log's folder where it lies below.
        results: By the same names, as far as they were found out.
        look: The planned look that it belongs to, in the words of whoever planned it.
    """

    time: str
    reason: str
    leaders: Mapping[str, str]
    results: Mapping[str, TestResult]
    look: Mapping[str, Any] | None = None

    @property
    def finished(self) -> bool:
        """Whether every leader has its result."""
        return self.results.keys() == self.leaders.keys()


def open_test(
    leader_dirs: Sequence[Path],
    data: DataConfig,
    *,
    log: Path,
    reason: str,
    device: torch.device | str = "cpu",
    cache_dir: Path | None = None,
    resume: Opening | None = None,
    look: Mapping[str, Any] | None = None,
) -> list[TestResult]:
    """Open the test set, once for all of these leaders.

    The opening is on disk in ``log``, with the leaders and the digests of their weights, before
    the first image is read, so that no look at the test set goes unrecorded; each result follows
    as soon as it is known. The images are read once. Leaders run in eval mode and float32.

    Args:
        leader_dirs: What ``save_leader`` wrote, at least one folder.
        data: Where the images are.
        log: A file of JSON lines, made if absent.
        reason: Who opens it and what for (a command line).
        device: Where the leaders run.
        cache_dir: Where decoded image folders are kept.
        resume: An opening of this log that may have been broken off. Only leaders without a result
            are measured, and no new opening is counted; if all have theirs, no image is read. It
            must have been made for these leaders with these weights: what is different now might
            have been chosen by what was seen.
        look: Written to the log beside the reason: which look of a plan this is.

    Returns:
        The results in the order of ``leader_dirs``.

    Raises:
        DataError: There is no test set, or a leader was trained for images of another kind.
        OpeningError: ``resume`` was made for other leaders.
        FileNotFoundError: There is no leader in a folder; nothing was opened.
    """
    if not leader_dirs:
        raise ValueError("the test set is opened for at least one leader")
    names = {folder: _name(folder, log) for folder in leader_dirs}
    infos = {folder: load_info(folder) for folder in leader_dirs}
    digests = {name: weights_digest(folder) for folder, name in names.items()}
    now = datetime.now(UTC).isoformat()
    opening = resume or Opening(now, reason, digests, {})
    _require_opened_for(opening, digests)
    results = dict(opening.results)
    missing = {folder: info for folder, info in infos.items() if names[folder] not in results}
    if missing:
        which = {"opening": opening.time} if resume else {"leaders": digests, "look": look}
        event = "resumed" if resume else "opened"
        append_json(log, {"event": event, "time": now, "reason": reason, **which})
        logger.warning("the test set is %s: %s", event, reason)
        for folder, result in _measure(missing, data, torch.device(device), cache_dir):
            results[names[folder]] = result
            known = {"opening": opening.time, "leader": names[folder], **asdict(result)}
            append_json(log, {"event": "result", **known})
    return [results[names[folder]] for folder in leader_dirs]


def read_openings(log: Path) -> list[Opening]:
    """Read the openings of a log, oldest first; none where there is no log.

    A line that was cut off by a crash is passed over: no image is read and no result used before
    its line is whole.

    Raises:
        OpeningError: A whole line is no record; an opening must not be forgotten.
    """
    openings: dict[str, tuple[dict[str, Any], dict[str, TestResult]]] = {}
    for number, entry in read_json_lines(log):
        try:
            _note(entry, openings)
        except (KeyError, TypeError, AttributeError):
            raise OpeningError(f"{log}:{number}: no record of an opening of the test set") from None
    return [
        Opening(time, entry["reason"], entry["leaders"], results, entry.get("look"))
        for time, (entry, results) in openings.items()
    ]


def _note(
    entry: dict[str, Any], openings: dict[str, tuple[dict[str, Any], dict[str, TestResult]]]
) -> None:
    if entry["event"] == "opened":
        if not isinstance(entry["time"], str) or not isinstance(entry["reason"], str):
            raise TypeError("an opening has a time and a reason")
        openings[entry["time"]] = {**entry, "leaders": dict(entry["leaders"].items())}, {}
    elif entry["event"] == "result":
        values = {key: 0 + entry[key] for key in ("accuracy", "nll", "num_images")}
        openings[entry["opening"]][1][entry["leader"]] = TestResult(**values)


def _name(folder: Path, log: Path) -> str:
    """Name a leader so that a folder of runs can be moved together with its log."""
    path, home = (Path(os.path.abspath(place)) for place in (folder, log.parent))
    return (path.relative_to(home) if path.is_relative_to(home) else path).as_posix()


def weights_digest(folder: Path) -> str:
    """Return the digest of a leader's weights in the log: the first 16 digits of their SHA-256."""
    return weights_sha256(folder)[:16]


def _require_opened_for(opening: Opening, digests: Mapping[str, str]) -> None:
    changed = sorted(name for name, _ in digests.items() - opening.leaders.items())
    if changed:
        raise OpeningError(
            f"the test set was opened on {opening.time} for other leaders, or their weights have "
            f"changed since: {abbreviate(changed)}"
        )


# Measuring


def _measure(
    infos: Mapping[Path, LeaderInfo], data: DataConfig, device: torch.device, cache_dir: Path | None
) -> Iterator[tuple[Path, TestResult]]:
    """Yield each leader's folder and result as soon as there is one."""
    if data.streaming:
        yield from _measure_streamed(infos, data, device, cache_dir)
        return
    images = read_part(data, "test", cache_dir)
    _require_fit(infos, images)
    for folder, info in infos.items():
        mean_C, std_C = tuple(info.mean), tuple(info.std)
        batches = EvaluationBatches(images, mean_C, std_C, batch_size=BATCH, device=device)
        yield from _evaluate([folder], batches, device)


def _measure_streamed(
    infos: Mapping[Path, LeaderInfo], data: DataConfig, device: torch.device, cache_dir: Path | None
) -> Iterator[tuple[Path, TestResult]]:
    """Decode every image once for all leaders (that normalise alike, as those of a search do)."""
    from trainer.data.streaming import StreamedEvaluation  # torchvision takes a second

    def normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return tuple(infos[folder].mean), tuple(infos[folder].std)

    files = read_image_files(data, "test", cache_dir)
    _require_fit(infos, files)
    for (mean_C, std_C), folders in groupby(sorted(infos, key=normalisation), key=normalisation):
        batches = StreamedEvaluation(
            files, mean_C, std_C, batch_size=BATCH, device=device, workers=data.workers
        )
        yield from _evaluate(list(folders), batches, device)


def _require_fit(infos: Mapping[Path, LeaderInfo], images: Images) -> None:
    shape, names = [images.channels, *images.size], list(images.class_names)
    for folder, info in infos.items():
        if (info.input_shape, info.class_names) != (shape, names):
            raise DataError(
                f"{folder} was trained for images of {info.input_shape} (channels, height, width) "
                f"in {len(info.class_names)} classes; the test images are {shape} in {len(names)}"
                + (" others" if len(info.class_names) == len(names) else "")
            )


@torch.inference_mode()
def _evaluate(
    folders: Sequence[Path], batches: Iterable[Batch], device: torch.device
) -> list[tuple[Path, TestResult]]:
    """Run leaders side by side over one pass of batches; only sums are kept, not the logits."""
    modules = [load_leader(folder).module.to(device) for folder in folders]
    right_L = torch.zeros(len(modules), dtype=torch.int64, device=device)
    surprise_L = torch.zeros(len(modules), dtype=torch.float64, device=device)
    count = 0
    # Without TensorFloat-32, so that a GPU gives what the CPU gives.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for images_NCHW, labels_N in batches:
            for i, module in enumerate(modules):
                logits_NC = module(images_NCHW).double()
                right_L[i] += (logits_NC.argmax(dim=1) == labels_N).sum()
                surprise_L[i] += F.cross_entropy(logits_NC, labels_N, reduction="sum")
            count += len(labels_N)
    return [
        (folder, TestResult(right / count, surprise / count, count))
        for folder, right, surprise in zip(
            folders, right_L.tolist(), surprise_L.tolist(), strict=True
        )
    ]
