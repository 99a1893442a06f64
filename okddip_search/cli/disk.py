"""Estimate of a search's peak disk usage from its space; torch is not imported.

Weights are counted exactly, by ``trainer.tools.footprint`` in a separate process. The bytes per
epoch and per trial were measured in real searches (``tests/chaos/test_disk_bounds.py`` compares the
estimate with one).
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from okddip_search.cli.images import Images
from okddip_search.driver.budget import most_runs
from okddip_search.formatting import size_text
from okddip_search.space.dimensions import CategoricalDimension
from okddip_search.space.model import SearchSpec
from okddip_search.space.settings import StudySettings
from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig
from trainer.registry import DATA_SETS

KIB, MIB = 2**10, 2**20
STATES_AT_ONCE = 3
"""Equal to that of ``trainer.engine.checkpoint``, which needs torch; a test compares them."""

_SHAPING = ("model", "method", "structure")
"""Fields that determine, beside the sizes, the networks of a group."""
_COUNTING_S = 120.0

_JSON_COPIES = 2.24  # of an epoch's report: `state.json`, and `result.json`, which is indented
_STUDY, _REPORT, _MLFLOW = 150, 300, 4800  # bytes an epoch
_TRIAL = 48 * KIB  # parameters and tags in MLflow, Tune's record, whole blocks of small files
_PAGE = 5 * MIB  # the report, most of it the library that draws
_STORE = MIB  # MLflow's database without a run
_LEADERS_BESIDE = 6  # `leader/` and its successor, a trial's that just ended, MLflow's model


@dataclass(frozen=True)
class Disk:
    """Bytes at the peak.

    Attributes:
        parts: Bytes by description.
    """

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(self.parts.values())

    def describe(self) -> str:
        """Return the sum and a line for each part."""
        lines = [f"at most about {size_text(self.total)}, if no trial is pruned:"]
        return "\n".join(
            [*lines, *(f"{size_text(n):>9}  {what}" for what, n in self.parts.items())]
        )


def estimate_disk(spec: SearchSpec, slots: int, images: Images, *, own_store: bool) -> Disk | None:
    """Estimate the peak of a search and, if the space asks for one, of its confirmation.

    Files already in the directory are not counted.

    Args:
        spec: The space.
        slots: Number of concurrent trials.
        images: Those of the space.
        own_store: Whether MLflow's store is in the directory.

    Returns:
        None if the networks could not be counted.
    """
    configs = largest_configs(spec)
    teachers = [teacher for c in configs if (teacher := c.teacher_config()) is not None]
    sizes = _footprints([*configs, *teachers], images)
    if sizes is None:
        return None
    state = max(size[0] for size in sizes[: len(configs)])
    leader = max(size[1] for size in sizes[: len(configs)])
    study = spec.study
    record = _record_bytes(spec, max(config.num_peers or 0 for config in configs), own_store)
    parts = {
        f"checkpoints of {slots} running trials, {STATES_AT_ONCE} of {size_text(state)} each while "
        "one replaces the other": slots * STATES_AT_ONCE * state,
        f"networks of the best {study.keep_leaders} trials, {size_text(leader)} each, and the "
        "winner's": (study.keep_leaders + _LEADERS_BESIDE) * leader,
        **_paused(study, state),
        f"curves and records of {study.trials} trials": study.trials * record,
        "the report, and MLflow's copy of it": 2 * _PAGE + _STORE,
    }
    if teachers:
        teaching = max(STATES_AT_ONCE * s + weights for s, weights in sizes[len(configs) :])
        parts["the teacher"] = teaching
    if spec.confirm is not None:
        runs = most_runs(spec.confirm, spec.confirm.most_seeds)
        tuned = len(spec.confirm.methods) if spec.confirm.baselines == "tuned" else 0
        size = runs * (leader + record) + tuned * study.trials * record
        size += _PAGE  # while its report replaces the search's
        parts[f"the confirmation: networks, curves and records of {runs} runs"] = size
    if decoded := _decoded_bytes(spec, images):
        parts["decoded images"] = decoded
    return Disk(parts)


def _paused(study: StudySettings, state: int) -> dict[str, int]:
    """Count what trials keep that wait to be let go on."""
    if study.searcher is None:
        return {}
    what = (
        f"checkpoints of at most {study.trials} paused trials, 2 of {size_text(state)} each; "
        "those without a chance lose theirs"
    )
    return {what: study.trials * 2 * state}


def largest_configs(spec: SearchSpec) -> list[TrainConfig]:
    """Return the largest configuration with each network, method and structure of the space."""
    choices = [
        [(name, value) for value in dimension.values()]
        for name, dimension in spec.search.items()
        if name in _SHAPING and isinstance(dimension, CategoricalDimension)
    ]
    found = []
    for chosen in itertools.product(*choices):
        with suppress(ConfigError):  # a method that does not train every structure
            found.append(spec.largest(**dict(chosen)))
    return found


def _record_bytes(spec: SearchSpec, peers: int, own_store: bool) -> int:
    """Return the bytes of a trial's curves, in all files that contain them."""
    report = 590 + 90 * peers + 20 * peers**2
    epoch = _JSON_COPIES * report + _STUDY + _REPORT + _MLFLOW * own_store
    return round(_TRIAL + spec.max_epochs * epoch)


def _decoded_bytes(spec: SearchSpec, images: Images) -> int:
    """Return the bytes of a folder's decoded images, which are kept in the search directory."""
    data = spec.data
    if not DATA_SETS[data.name].has_files or data.streaming or data.image_size is None:
        return 0
    count = images.train + images.validation + (0 if spec.confirm is None else images.test)
    return count * 3 * data.image_size**2


def _footprints(configs: list[TrainConfig], images: Images) -> list[tuple[int, int]] | None:
    """Count state and leader of each configuration in a process that may import torch."""
    asked = [[config.to_dict(), images.channels, images.classes] for config in configs]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "trainer.tools.footprint"],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=_COUNTING_S,
            check=True,
        )
        return [(int(state), int(leader)) for state, leader in json.loads(done.stdout)]
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
