"""A leader in the formats that other programs read."""

from pathlib import Path

import torch

from trainer.leader.leader import Leader


def export_pt2(leader: Leader, path: Path) -> None:
    """Write the leader as a PyTorch 2 archive with a free batch size (``torch.export.load``)."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        leader.module, (leader.example_images(),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, path)


def export_onnx(leader: Leader, path: Path) -> None:
    """Write the leader as ONNX with a free batch size.

    Raises:
        ImportError: The extra ``onnx`` is not installed.
    """
    torch.onnx.export(
        leader.module,
        (leader.example_images(),),
        path,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        dynamo=True,
        verbose=False,
    )
