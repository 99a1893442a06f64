"""Seeds that depend on the study's seed and the trial's number alone.

A resumed search must go on as an unbroken one would, so no random state lives in the driver: every
seed is computed from the study's contents.
"""

import hashlib


def trial_seed(study_seed: int, number: int) -> int:
    """Return the seed of a trial's training run, in [0, 2**31).

    It is the first four bytes (big-endian, top bit cleared) of
    ``sha256("trial:<study_seed>:<number>")``, so it is the same on every machine and version.
    """
    return _hash31(f"trial:{study_seed}:{number}")


def sampler_seed(study_seed: int, number: int | None) -> int:
    """Return the seed of the sampler that chooses a trial's parameters, in [0, 2**31).

    ``None`` stands for the study as a whole: grids and quasi-random sequences need one seed for all
    trials.
    """
    return _hash31(f"sampler:{study_seed}:{'all' if number is None else number}")


def confirm_seed(study_seed: int, index: int) -> int:
    """Return the seed of a confirmation's runs, in [0, 2**31); no trial of the search has it."""
    return _hash31(f"confirm:{study_seed}:{index}")


def _hash31(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFFFFFF
