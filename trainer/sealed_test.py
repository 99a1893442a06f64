"""The test set, sealed: opened by this one function, and every opening is written down."""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from trainer import metrics
from trainer.augment import Batch, EvaluationBatches
from trainer.config import DataConfig
from trainer.image_files import read_image_files
from trainer.leader import load_leader
from trainer.sources import read_part

logger = logging.getLogger(__name__)

BATCH = 512


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


def evaluate_test(
    leader_dir: Path, data: DataConfig, *, log: Path, reason: str, cache_dir: Path | None = None
) -> TestResult:
    """Open the test set for one leader.

    The opening is appended to ``log`` before the first image is read, so that no look at the test
    set can go unrecorded; the result is appended after it.

    Args:
        leader_dir: What ``save_leader`` wrote.
        data: Where the images are.
        log: A file of JSON lines, made if absent.
        reason: Who opens it and what for (a command line).
        cache_dir: Where decoded image folders are kept.

    Raises:
        DataError: There is no test set.
    """
    entry = {"time": datetime.now(UTC).isoformat(), "leader": str(leader_dir), "reason": reason}
    _append(log, {"event": "opened", **entry})
    logger.warning("the test set is opened: %s", reason)
    leader = load_leader(leader_dir)
    mean_C, std_C = tuple(leader.info.mean), tuple(leader.info.std)
    with torch.inference_mode():
        batches = _test_batches(data, mean_C, std_C, cache_dir)
        outputs = [(leader.module(x_NCHW), labels_N) for x_NCHW, labels_N in batches]
    logits, labels = zip(*outputs, strict=True)
    logits_NC, labels_N = torch.cat(logits), torch.cat(labels)
    result = TestResult(
        accuracy=metrics.accuracy(logits_NC, labels_N).item(),
        nll=metrics.negative_log_likelihood(logits_NC, labels_N).item(),
        num_images=len(labels_N),
    )
    _append(log, {"event": "result", **entry, **asdict(result)})
    return result


def _test_batches(
    data: DataConfig, mean_C: tuple[float, ...], std_C: tuple[float, ...], cache_dir: Path | None
) -> Iterable[Batch]:
    if not data.streaming:
        images = read_part(data, "test", cache_dir)
        return EvaluationBatches(images, mean_C, std_C, batch_size=BATCH)
    from trainer.streaming import StreamedEvaluation  # torchvision takes a second

    files = read_image_files(data, "test")
    return StreamedEvaluation(files, mean_C, std_C, batch_size=BATCH, workers=data.workers)


def _append(log: Path, entry: dict[str, object]) -> None:
    with open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
