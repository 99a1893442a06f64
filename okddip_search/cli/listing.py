"""``okddip-search models`` and ``methods``: lists of networks and training methods."""

import json
import sys
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from trainer.registry import METHODS, MODELS

GROUP_SIZE = 4
PLAIN_WIDTH = 160


def show_models(*, as_json: bool) -> None:
    """Print the networks, each with every number of classes that it was published with."""
    entries = [
        model_entry(name, num_classes)
        for name, info in MODELS.items()
        for num_classes in info.class_counts
    ]
    if as_json:
        click.echo(json.dumps(entries, indent=2))
        return
    table = Table("network", box=None, pad_edge=False, header_style="dim")
    for heading in ("classes", "pixels", "single", "branches", "networks", "MMACs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in entries:
        counts = [f"{count:,}" for count in entry["parameters"].values()]
        macs = f"{entry['macs'] / 1e6:,.1f}"
        size = str(entry["input_size"])
        table.add_row(entry["name"], str(entry["num_classes"]), size, *counts, macs)
    _print(table)


def show_methods(*, as_json: bool) -> None:
    """Print the training methods."""
    entries = [
        {
            "name": name,
            "summary": info.summary,
            "source": info.source,
            "structures": list(info.structures),
        }
        for name, info in METHODS.items()
    ]
    if as_json:
        click.echo(json.dumps(entries, indent=2))
        return
    table = Table("method", "what it does", "source", "structures",
                  box=None, pad_edge=False, header_style="dim")  # fmt: skip
    for name, info in METHODS.items():
        table.add_row(name, info.summary, info.source, ", ".join(info.structures))
    _print(table)


def model_entry(name: str, num_classes: int) -> dict[str, Any]:
    """Measure a network of published width for colour images; no weights are made.

    Returns:
        ``name``, ``num_classes``, ``parameters`` (``single``, ``branch_group`` and
        ``network_group`` of 4, with two projections D → D/8), ``macs`` (multiply-adds of the
        convolutions and linear layers of one network for one image of the native size),
        ``input_size`` (that size: pixels a side) and ``summary``.
    """
    import torch

    from trainer.group.group import single_network
    from trainer.leader.cost import count_macs, count_parameters
    from trainer.models import build_architecture

    info = MODELS[name]
    with torch.device("meta"):  # shapes alone: nothing is computed
        architecture = build_architecture(name, channels=3, num_classes=num_classes)
        single = single_network(architecture).eval()
    whole, trunk = count_parameters(single), count_parameters(single.trunk)
    projections = 2 * architecture.feature_dim * (architecture.feature_dim // 8)
    return {
        "name": name,
        "num_classes": num_classes,
        "parameters": {
            "single": whole,
            "branch_group": trunk + GROUP_SIZE * (whole - trunk) + projections,
            "network_group": GROUP_SIZE * whole + projections,
        },
        "macs": count_macs(single, (3, info.native_size, info.native_size)),
        "input_size": info.native_size,
        "summary": info.summary,
    }


def _print(table: Table) -> None:
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    Console(width=width, highlight=False).print(table)
