"""Numbers as text: percent, points, durations, counts."""

from collections.abc import Mapping
from typing import Any


def percent(share: float | None) -> str:
    """Format a share in [0, 1], or a dash."""
    return "–" if share is None else f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """Format seconds as ``1:02:03`` or ``2:03``."""
    minutes, whole_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole_s:02}" if hours else f"{minutes}:{whole_s:02}"


def params_text(params: Mapping[str, Any]) -> str:
    """Format hyperparameters in one line."""
    return "  ".join(f"{name}={value_text(value)}" for name, value in params.items())


def value_text(value: Any) -> str:
    """Format a hyperparameter's value."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
