"""``report.html``: the whole search on one self-contained page, and its numbers as JSON.

Data flows one way: files → ``sources`` → ``data`` (``report.json``) → charts and page. The report
only reads the search, so it also works for a running or a killed one.
"""

import base64
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from okddip_search.formatting import (
    moment,
    percent,
    points,
    seconds,
    si,
    spread,
    typeset,
    value_text,
)
from okddip_search.layout import DATA, PAGE
from okddip_search.report.charts import make_charts
from okddip_search.report.data import collect
from okddip_search.report.sources import read_sources
from trainer.io.files import write_atomically, write_json

logger = logging.getLogger(__name__)


def write_report(search_dir: Path) -> Path:
    """Write ``report.json`` and ``report.html`` of a finished, running or killed search.

    Args:
        search_dir: Directory of the search. Nothing else in it is changed, and no lock is taken.

    Returns:
        Path of the page.

    Raises:
        UserError: There is no search, or its journal is damaged.
    """
    data = collect(read_sources(search_dir))
    write_json(search_dir / DATA, data)
    page = search_dir / PAGE
    write_atomically(page, render(data))
    return page


def try_report(search_dir: Path, say: Callable[[str], None]) -> Path | None:
    """Write the report; an error in it is printed and does not stop the search from ending."""
    try:
        return write_report(search_dir)
    except Exception as error:
        logger.exception("the report")
        say(f"the report could not be written: {type(error).__name__}: {error}")
        return None


def render(data: Mapping[str, Any]) -> str:
    """Return the page for the values of ``data.collect``."""
    environment = Environment(
        loader=PackageLoader("okddip_search.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[[Any], str]] = {
        "percent": lambda share: unbroken(percent(share)),
        "points": lambda share: typeset(points(share)),
        "points_of_sd": lambda share: points(share, sign=False),
        "spread": lambda summary: unbroken(spread(summary)),
        "seconds": lambda value: unbroken(seconds(value)),
        "count": lambda value: "–" if value is None else f"{value:,}",
        "value": lambda value: "–" if value is None else value_text(value),
        "si": si,
        "moment": moment,
    }
    environment.filters |= filters
    charts = make_charts(data)
    figures = {name: chart.figure for name, chart in charts.items() if chart.figure}
    template = environment.get_template("report.html.j2")
    own_script = (files("okddip_search.report") / "templates" / "report.js").read_text(
        encoding="utf-8"
    )
    scripts = [get_plotlyjs(), own_script]
    return template.render(
        **data,
        charts={name: asdict(chart) for name, chart in charts.items()},
        figures=figures,
        scripts=scripts,
        script_hashes=" ".join(map(script_hash, scripts)),
    )


def script_hash(script: str) -> str:
    """Return a script's hash for the page's policy, which blocks any script in foreign text.

    A browser sees every line end as a line feed.
    """
    seen = script.replace("\r\n", "\n").replace("\r", "\n")
    digest = base64.b64encode(hashlib.sha256(seen.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def unbroken(words: str) -> str:
    """Keep a number and its unit on one line."""
    return words.replace(" ", "\u00a0")
