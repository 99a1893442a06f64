"""Breaks the trainer inside a search's workers, as the tests in this folder ask.

It is on the PYTHONPATH of the command under test, and touches the trainer and the number of GPUs
alone: what follows from the fault is the real thing. ``OKDDIP_TEST_FAULTS`` is JSON: a list of
``{"kind", "epoch", "trials", "times"}``; which of them have struck is counted in files in
``OKDDIP_TEST_STRUCK``.
"""

import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
from pathlib import Path


def strike(kind):
    import torch

    if kind == "exception":
        raise ValueError("a bug in the trainer, step 17")
    if kind == "gpu memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (injected)")
    if kind == "hang":
        time.sleep(10_000)
    if kind == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "host memory":
        hoard = []
        while True:  # until Ray's memory monitor has seen enough
            hoard.append(bytearray(os.urandom(1 << 20) * 64))
            time.sleep(0.02)
    raise AssertionError(kind)


def due(fault, index, number, epoch):
    if epoch != fault["epoch"] or number not in fault["trials"]:
        return False
    for time_ in range(fault["times"]):
        try:
            Path(os.environ["OKDDIP_TEST_STRUCK"], f"{index}-{number}-{time_}").touch(
                exist_ok=False
            )
            return True
        except FileExistsError:
            continue
    return False


def poison(trainer):
    """Make the weights NaN, as a learning rate that is far too high does."""
    import torch

    with torch.no_grad():
        for parameter in trainer.group.parameters():
            parameter.fill_(float("nan"))


def infect(module):
    run_class = module.TrainingRun
    step = run_class.step

    def broken_step(self):
        number = int(self.directory.name) if self.directory.name.isdigit() else -1
        for index, fault in enumerate(json.loads(os.environ["OKDDIP_TEST_FAULTS"])):
            if due(fault, index, number, self.trainer.epoch):
                if fault["kind"] == "nan":
                    poison(self.trainer)
                else:
                    strike(fault["kind"])
        return step(self)

    run_class.step = broken_step


def pretend(module):
    """Count GPUs that are not there; Ray schedules them like real ones."""
    gpus = int(os.environ.get("OKDDIP_TEST_GPUS", 0))
    if gpus:
        module.count_gpus = lambda: gpus


CHANGES = {"trainer.engine.run": infect, "okddip_search.cluster.gpus": pretend}


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            CHANGES[name](module)

        spec.loader.exec_module = exec_module
        return spec


if "OKDDIP_TEST_FAULTS" in os.environ:
    sys.meta_path.insert(0, Finder())
