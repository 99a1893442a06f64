"""An executor is not chosen before it has shown that it computes what the plain one does."""

import pytest
import torch

from trainer.config.train import TrainConfig
from trainer.engine.cuda_graph import CudaGraphSteps
from trainer.group import executors
from trainer.tools.timing import Shape, Variant
from trainer.tools.verify import disagreement, verify_executor

DIGITS = Shape(1, 8, 8, 10)
CONFIG = TrainConfig(
    model="resnet8", width=0.5, num_peers=2, device="cpu", num_threads=1, batch_size=16
)
GRAPHED = Variant("cuda_graph", "fp32")


@pytest.fixture
def on_the_cpu(monkeypatch):
    """Let the CPU take CUDA-graph steps: launched instead of recorded."""
    monkeypatch.setattr(executors, "capture_obstacle", lambda group: "")


@pytest.mark.parametrize("structure", ["branch", "network"])
@pytest.mark.parametrize("variant", [GRAPHED, Variant("fused", "fp32"), Variant("fused", "bf16")])
def test_executors_agree_with_the_plain_one_but_for_rounding(on_the_cpu, structure, variant):
    config = TrainConfig(**{**CONFIG.to_dict(), "structure": structure})
    assert disagreement(config, DIGITS, variant) == ""


def the_same_batch_in_every_step(self):
    self._step(self._drawn.select(self._offsets_B))


def a_step_less(self):
    if self._done_1 != 1:
        full_step(self)
    else:
        self._done_1 += 1


def another_learning_rate(self, number, lr, ramp_weight):
    return epoch(self, number, 1.1 * lr, ramp_weight)


def the_ramp_up_of_the_first_epoch(self, number, lr, ramp_weight):
    return epoch(self, number, lr, 0.0)


full_step, epoch = CudaGraphSteps._full_step, CudaGraphSteps.epoch
MISTAKES = {
    "_full_step": [the_same_batch_in_every_step, a_step_less],
    "epoch": [another_learning_rate, the_ramp_up_of_the_first_epoch],
}


@pytest.mark.parametrize(
    ("name", "mistake"),
    [pytest.param(name, m, id=m.__name__) for name, found in MISTAKES.items() for m in found],
)
def test_a_recording_that_goes_wrong_is_seen(on_the_cpu, monkeypatch, name, mistake):
    monkeypatch.setattr(CudaGraphSteps, name, mistake)
    assert "differ by" in disagreement(CONFIG, DIGITS, GRAPHED)


@pytest.mark.parametrize(
    ("variant", "shape", "limit_s", "reason"),
    [
        (Variant("fused", "fp32"), DIGITS, 180, None),
        (GRAPHED, DIGITS, 180, "there are CUDA graphs on a GPU alone"),
        (GRAPHED, Shape(1, 4, 4, 10), 180, "resnet8"),  # too small
        (GRAPHED, Shape(1, 8, 8, 0), 180, "its process ended with 1 RuntimeError"),
        (GRAPHED, DIGITS, 0.1, "not done after 0.1 s"),
    ],
)
def test_it_is_asked_in_a_process_that_may_end_or_hang(variant, shape, limit_s, reason):
    why = verify_executor(CONFIG, shape, variant, limit_s)
    assert (reason in why) if reason else (why == "")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graph_that_is_recorded_passes(precision):
    config = TrainConfig(**{**CONFIG.to_dict(), "device": "cuda"})
    assert verify_executor(config, DIGITS, Variant("cuda_graph", precision)) == ""
