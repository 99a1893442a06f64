"""The learner of a run and its training step, the same for every way of running the steps."""

import torch
from torch import Tensor, nn

from trainer.config.train import TrainConfig
from trainer.group.group import PeerGroup
from trainer.methods import Method
from trainer.methods.base import Batch


class Learner:
    """A group, its method and the optimiser of their weights.

    Args:
        config: The run.
        group: On its device.
        method: On the same device, prepared.
        precision: ``fp32`` or ``bf16``, of the forward pass.
        on_device: Whether the learning rate is a scalar on the device and the optimiser one kernel
            that reads it there: a step is then launched without a number that the CPU gave it.

    Attributes:
        model: Group and method: what is trained and saved.
        optimizer: Nesterov SGD.
    """

    def __init__(
        self,
        config: TrainConfig,
        group: PeerGroup,
        method: Method,
        *,
        precision: str,
        on_device: bool,
    ) -> None:
        self.group, self.method, self.precision = group, method, precision
        self.model = nn.ModuleDict({"group": group, "method": method})
        self.device = next(group.parameters()).device
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(
            self._parameters,
            lr=torch.tensor(config.lr, device=self.device) if on_device else config.lr,
            momentum=config.momentum,
            nesterov=config.momentum > 0,  # torch refuses Nesterov without momentum
            weight_decay=config.weight_decay,
            fused=True if on_device else None,
        )
        self._on_device = on_device
        if on_device and config.momentum > 0:
            # The first step would make it; now all steps are alike.
            for parameter in self._parameters:
                self._momentum(parameter).zero_()

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the steps to come."""
        for parameter_group in self.optimizer.param_groups:
            if self._on_device:
                parameter_group["lr"].fill_(lr)
            else:
                parameter_group["lr"] = lr

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Learn from a batch; return the parts of its loss, ``total`` first."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = self.group(batch.images_NCHW)
        losses = self.method.losses(output.float(), batch)
        losses["total"].backward()  # type: ignore[no-untyped-call]
        if self._on_device:
            self._align_gradients()
        self.optimizer.step()
        return losses

    def _align_gradients(self) -> None:
        """Give every gradient its weight's strides, which the fused update insists on.

        They differ for 1 × 1 kernels and single channels, where two memory orders are one.
        """
        for parameter in self._parameters:
            if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a step changes, by name: ``model.…`` and ``momentum.…``; no copies."""
        tensors: dict[str, Tensor] = {f"model.{k}": t for k, t in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            buffer = self.optimizer.state[parameter].get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum.{name}"] = buffer
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over what ``tensors`` once returned, into the memory that is in use."""
        weights = {k.removeprefix("model."): t for k, t in tensors.items() if k[:6] == "model."}
        self.model.load_state_dict(weights)
        for name, parameter in self.model.named_parameters():
            if (buffer := tensors.get(f"momentum.{name}")) is not None:
                self._momentum(parameter).copy_(buffer)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        state = self.optimizer.state[parameter]
        if "momentum_buffer" not in state:
            # Strides as the parameter's: the same kernels, so the same bits.
            state["momentum_buffer"] = torch.empty_like(parameter, requires_grad=False)
        buffer: Tensor = state["momentum_buffer"]
        return buffer
