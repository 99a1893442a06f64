"""GPUs are counted as torch counts them; one that it cannot use is named with the reason."""

import json
import os
import sys

import pytest

from okddip_search.cluster import gpus
from okddip_search.cluster.gpus import TorchView, ask_torch, count_gpus
from okddip_search.cluster.resources import this_machine
from okddip_search.errors import UserError

CPU_BUILD = TorchView("2.15.0+cpu", "", 0, "Torch not compiled with CUDA enabled")
OLD_DRIVER = TorchView(
    "2.15.0+cu132", "13.2", 0,
    "The NVIDIA driver on your system is too old (found version 12020)",
)  # fmt: skip
OLD_GPU = TorchView(
    "2.15.0+cu132", "13.2", 2, "Found GPU0 Tesla K80 which is of compute capability (CC) 3.7."
)


def write_program(folder, name, text):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Put an nvidia-smi on the PATH that lists these GPUs."""

    def install(*rows):
        lines = "\n".join(rows)
        write_program(tmp_path / "bin", "nvidia-smi", f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return install


@pytest.fixture
def torch_says(tmp_path, monkeypatch):
    """Have the Python that is asked for torch's view answer with this one."""

    def install(view):
        answer = json.dumps(view._asdict())
        write_program(tmp_path / "bin", "python", f"#!/bin/sh\necho '{answer}'\n")
        monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))

    ask_torch.cache_clear()
    yield install
    ask_torch.cache_clear()


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (CPU_BUILD, ["2.15.0+cpu", "not compiled with CUDA", "Install a CUDA build of torch"]),
        (OLD_DRIVER, ["too old", "535.104.05", "CUDA 13.2", "580.65.06 or later"]),
        (OLD_GPU, ["compute capability (CC) 3.7", "CUDA_VISIBLE_DEVICES"]),
    ],
    ids=["CPU build", "old driver", "old GPU"],
)
def test_a_gpu_that_torch_cannot_use_is_told_with_its_reason(driver, torch_says, view, words):
    driver("NVIDIA A100-SXM4-40GB, 535.104.05", "NVIDIA A100-SXM4-40GB, 535.104.05")
    if "driver" not in view.reason:
        driver("NVIDIA A100-SXM4-40GB, 590.10", "NVIDIA A100-SXM4-40GB, 590.10")
    torch_says(view)
    with pytest.raises(UserError) as told:
        count_gpus()
    for word in ["NVIDIA A100-SXM4-40GB and 1 more", "--gpus 0", *words]:
        assert word in str(told.value)
    assert this_machine(0).gpus == 0  # which does not ask


def test_the_real_torch_says_why_it_cannot_use_a_gpu_that_is_not_there(driver):
    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("there is a GPU here")
    driver("NVIDIA Imaginary, 590.10")
    ask_torch.cache_clear()
    with pytest.raises(
        UserError, match="NVIDIA Imaginary.*torch 2.*cannot use it: .*(NVIDIA|CUDA)"
    ):
        count_gpus()


def test_as_many_are_counted_as_torch_sees(driver, torch_says, monkeypatch):
    driver(*["NVIDIA H200, 590.10"] * 8)
    torch_says(TorchView("2.15.0", "13.2", 8, ""))
    assert count_gpus() == 8
    torch_says(TorchView("2.15.0", "13.2", 3, ""))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3,5")
    assert count_gpus() == 3


def test_mig_slices_count_one_each(driver, torch_says, monkeypatch):
    driver("NVIDIA H200, 590.10")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1a,MIG-2b,MIG-3c")
    torch_says(TorchView("2.15.0", "13.2", 1, ""))
    assert count_gpus() == 3


@pytest.mark.parametrize(
    ("visible", "seen", "count"),
    [
        ("0,1,-1,2", 2, 2),
        ("1, 0 ,none,3", 2, 2),
        ("GPU-1a2b,GPU-3c4d", 2, 2),
        ("NoDevFiles", 0, 0),
        ("-1,0", 0, 0),
        ("MIG-1a,-1,MIG-2b", 1, 1),
    ],
)
def test_cuda_reads_its_list_up_to_the_first_invalid_entry(
    driver, torch_says, monkeypatch, visible, seen, count
):
    driver(*["NVIDIA H200, 590.10"] * 4)
    torch_says(TorchView("2.15.0", "13.2", seen, ""))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_gpus() == count


@pytest.mark.parametrize(
    ("visible", "seen", "words"),
    [("0", 0, "names 1 GPUs, and 0"), ("0,1,7", 2, "names 3 GPUs, and 2"), ("0,0", 0, "2 GPUs")],
)
def test_a_gpu_that_is_named_but_not_there_is_refused(
    driver, torch_says, monkeypatch, visible, seen, words
):
    driver(*["NVIDIA H200, 590.10"] * seen)
    torch_says(TorchView("2.15.0", "13.2", seen, ""))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError, match=words) as refused:
        count_gpus()
    assert "--gpus 0" in refused.value.remedy
    assert this_machine(0).gpus == 0


def test_amd_gpus_are_counted_and_graphics_that_torch_cannot_use_are_none(
    driver, torch_says, tmp_path, monkeypatch
):
    driver()
    (tmp_path / "kfd").touch()
    monkeypatch.setattr(gpus, "DEVICES", (str(tmp_path / "kfd"),))
    torch_says(TorchView("2.15.0+rocm7.2", "", 4, ""))
    assert count_gpus() == 4
    ask_torch.cache_clear()
    torch_says(TorchView("2.15.0+cpu", "", 0, "Torch not compiled with CUDA enabled"))
    assert count_gpus() == 0


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_are_not_looked_at(driver, torch_says, monkeypatch, hidden):
    driver("NVIDIA H200, 590.10")
    torch_says(CPU_BUILD)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert count_gpus() == 0


def test_a_machine_without_a_sign_of_a_gpu_does_not_load_torch(driver, torch_says, monkeypatch):
    driver()
    monkeypatch.setattr(gpus, "DEVICES", ())
    torch_says(TorchView("", "", 9, ""))
    assert count_gpus() == 0
