"""Numbers as text: percent, points, durations, counts."""

from collections.abc import Mapping
from typing import Any


def points(share: float | None, *, sign: bool = True) -> str:
    """Format a difference of shares in percentage points; never as -0.00."""
    return "–" if share is None else f"{round(100 * share, 2) + 0.0:{'+' * sign}.2f}"


def typeset(number: str) -> str:
    """Turn the hyphen of a negative number into a minus sign, for the page."""
    return number.replace("-", "−")


def spread(summary: Mapping[str, Any] | None) -> str:
    """Format mean ± standard deviation of shares, in percent."""
    if not summary or summary["mean"] is None:
        return "–"
    mean = f"{100 * summary['mean']:.2f}"
    sd = "" if summary["sd"] is None else f" ± {100 * summary['sd']:.2f}"
    return f"{mean}{sd} %"


def seconds(value: float | None) -> str:
    """Format a time with its units: seconds below two minutes, then minutes, then hours."""
    if value is None:
        return "–"
    if value < 120:
        return f"{value:.1f} s"
    minutes, rest_s = divmod(round(value), 60)
    if minutes < 120:
        return f"{minutes} min {rest_s} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def si(value: float | None) -> str:
    """Format a large count with three digits: ``19.6 k``, ``1.23 M``."""
    if value is None:
        return "–"
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:g}"


def size_text(size: int) -> str:
    """Format bytes with three digits: ``19.6 KiB``, ``1.23 GiB``."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 2**10:.3g} KiB"


def moment(value: str | None) -> str:
    """Format an ISO time without its ``T`` and fractions of a second."""
    return "–" if value is None else value.replace("T", " ").split(".")[0].removesuffix("+00:00")


def percent(share: float | None) -> str:
    """Format a share in [0, 1], or a dash."""
    return "–" if share is None else f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """Format seconds as ``1:02:03`` or ``2:03``."""
    minutes, whole_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole_s:02}" if hours else f"{minutes}:{whole_s:02}"


def expectation(mean: float, sd: float, mark: float | None) -> str:
    """Say what was expected of a paused trial when it went on, and what the best promised then."""
    best = "none was complete yet" if mark is None else f"the best had {percent(mark)}"
    return f"expected {percent(mean)} ± {100 * sd:.2f}, {best}"


def about(seconds: float) -> str:
    """Format a rough time, for instance ``about 2 h``."""
    return f"about {seconds / 3600:.0f} h" if seconds > 5400 else f"about {seconds / 60:.0f} min"


def params_text(params: Mapping[str, Any]) -> str:
    """Format hyperparameters in one line."""
    return "  ".join(f"{name}={value_text(value)}" for name, value in params.items())


def value_text(value: Any) -> str:
    """Format a hyperparameter's value."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
