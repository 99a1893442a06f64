"""Streamed image folders: the same batches whoever decodes them, every image evaluated once."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms import v2

from trainer.config.data import DataConfig
from trainer.config.train import TrainConfig
from trainer.data import decoders
from trainer.data.base import DevelopmentData
from trainer.data.decoding import open_rgb
from trainer.data.image_files import ImageFiles, read_image_files
from trainer.data.images import DataError
from trainer.data.load import development_data_from_arrays, load_development_data
from trainer.data.resident import ResidentData
from trainer.data.streaming import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    StreamedData,
    StreamedEvaluation,
    StreamedTraining,
)
from trainer.engine.run import TrainingRun
from trainer.engine.trainer import Trainer
from trainer.group.group import single_network
from trainer.leader.leader import LeaderInfo, load_leader, save_leader
from trainer.models import build_architecture
from trainer.test_set import open_test

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]


def write_digits(folder: Path, count: int = 60, side: int = 32, first: int = 0) -> None:
    """Write digits 0 to 2, enlarged and coloured, into ``folder/<digit>/``, PNG and JPEG."""
    bunch = load_digits(n_class=3)
    for i in range(first, first + count):
        target = folder / str(bunch.target[i])
        target.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray((bunch.images[i] * 15.9375).astype(np.uint8)).resize((side, side))
        rgb = np.stack([np.asarray(grey), np.asarray(grey) // 2, np.asarray(grey) // 4], axis=-1)
        Image.fromarray(rgb).save(target / f"{i:03}{'.png' if i % 2 else '.jpg'}")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "train", 60)
    write_digits(folder / "test", 24, first=60)
    return folder


def config(root: Path, **fields: object) -> DataConfig:
    values = {"name": "image_folder", "root": str(root), "image_size": 28, "streaming": True}
    return DataConfig(**{**values, "validation": 15, "test": 0, **fields})


def load(root: Path, **fields: object) -> StreamedData:
    data = load_development_data(config(root, **fields))
    assert isinstance(data, StreamedData)
    return data


def epoch(data: DevelopmentData, seed: int, epoch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(data.training_batches(16, CPU).epoch(seed, epoch))


def equal(a, b) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, other_x) and torch.equal(y, other_y)
        for (x, y), (other_x, other_y) in zip(a, b, strict=True)
    )


def names(files: ImageFiles) -> list[str]:
    return [str(files.path(i).relative_to(files.folder)) for i in range(len(files))]


@pytest.fixture(params=["fork", "forkserver", "spawn"])
def start_method(request: pytest.FixtureRequest) -> Iterator[str]:
    """Start processes as Linux did before Python 3.14, as it does since then, and as macOS does."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


# Training batches


def test_batches_are_a_pure_function_of_seed_and_epoch(root: Path) -> None:
    data = load(root)
    once = epoch(data, 3, 1)
    torch.rand(7)  # whatever the run has drawn meanwhile
    assert equal(once, epoch(data, 3, 1))
    assert not equal(once, epoch(data, 3, 2))
    assert not equal(once, epoch(data, 1, 3))
    batches = data.training_batches(16, CPU)
    first = list(batches.epoch(3, 0))
    assert equal(list(batches.epoch(3, 1)), once) and equal(list(batches.epoch(3, 0)), first)


def test_the_number_of_processes_changes_no_pixel_and_no_random_number_of_the_run(
    root: Path,
) -> None:
    drawn, epochs = [], []
    for workers in (0, 2):
        data = load(root, workers=workers)
        torch.manual_seed(0)
        batches = data.training_batches(16, CPU)
        epochs.append([list(batches.epoch(5, e)) for e in (0, 1)])
        epochs[-1].append(list(data.validation_batches(16, CPU)))
        drawn.append(torch.rand(3))
    torch.manual_seed(0)
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], torch.rand(3))
    assert all(equal(a, b) for a, b in zip(*epochs, strict=True))


def test_an_epoch_shows_every_image_once_cropped_and_in_another_order(root: Path) -> None:
    data = load(root)
    batches = data.training_batches(8, CPU)
    images, labels = map(torch.cat, zip(*batches.epoch(0, 0), strict=True))
    assert len(batches) == 6 and images.shape == (45, 3, 28, 28)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(labels.bincount(), data.train.labels_N.bincount())
    assert not torch.equal(labels, data.train.labels_N)


def test_a_last_batch_of_one_image_is_dropped(root: Path) -> None:
    batches = load(root).training_batches(22, CPU)
    assert [len(y) for _, y in batches.epoch(0, 0)] == [22, 22] and len(batches) == 2
    with pytest.raises(ValueError, match="needs 2 images: batch_size 1, 45 images"):
        load(root).training_batches(1, CPU)


def test_crops_are_those_of_torchvision_with_the_image_s_own_seed(root: Path) -> None:
    data = load(root)
    [(images, _)] = data.training_batches(45, CPU).epoch(2, 4)
    order = torch.randperm(
        45, generator=torch.Generator().manual_seed(decoders.mixed_seed(2, 4))
    ).tolist()
    reference = v2.Compose(
        [
            v2.RandomResizedCrop(28),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    for place in range(0, 45, 5):
        image = Image.open(data.train.path(order[place])).convert("RGB")
        torch.manual_seed(decoders.mixed_seed(2, 4, order[place]))
        assert torch.allclose(images[place], reference(image), atol=1e-5)


def test_flip_can_be_switched_off(root: Path) -> None:
    def mirrored(flip: bool) -> bool:
        data, found = load(root, flip=flip), False
        with_flip = load(root, flip=True)
        for e in range(3):
            for (a, _), (b, _) in zip(epoch(data, 0, e), epoch(with_flip, 0, e), strict=True):
                found |= any(torch.equal(x, y.flip(2)) for x, y in zip(a, b, strict=True))
        return found

    assert mirrored(False) and not mirrored(True)
    assert load(root).flip and not load(root, flip=False).flip


@pytest.mark.usefixtures("start_method")
def test_processes_live_from_epoch_to_epoch_and_go_with_the_batches(root: Path) -> None:
    before = set(multiprocessing.active_children())
    batches = load(root, workers=2).training_batches(16, CPU)
    assert set(multiprocessing.active_children()) == before
    crews = []
    for e in range(2):
        list(batches.epoch(0, e))
        crews.append({p.pid for p in set(multiprocessing.active_children()) - before})
    assert len(crews[0]) == 2 and crews[0] == crews[1]
    unfinished = batches.epoch(0, 2)
    next(unfinished)
    assert equal(list(batches.epoch(0, 0)), epoch(load(root), 0, 0))
    del batches, unfinished
    deadline = time.monotonic() + 60  # on a busy machine, torch does not wait for their end
    while set(multiprocessing.active_children()) != before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_signal_for_everybody_ends_no_process_and_a_run_may_end_in_mid_epoch(
    root: Path, start_method: str
) -> None:
    """Terminals and batch systems signal a whole group, perhaps while its processes start."""
    code = f"""
import multiprocessing, signal, torch
multiprocessing.set_start_method({start_method!r})
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: None)
from trainer.config.data import DataConfig
from trainer.data.load import load_development_data
data = load_development_data(DataConfig(**{config(root, workers=1).model_dump()!r}))
batches = data.training_batches(4, torch.device("cpu"))
print("begins", flush=True)
print(len(list(batches.epoch(0, 0))), "batches", flush=True)
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM}})  # as it is below a search
left_in_mid_epoch = batches.epoch(0, 1)
next(left_in_mid_epoch)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        assert run.stdout is not None and run.stdout.readline() == "begins\n"
        os.set_blocking(run.stdout.fileno(), False)
        while not (printed := run.stdout.readline()):
            assert run.poll() is None
            os.killpg(run.pid, signal.SIGINT)
            os.killpg(run.pid, signal.SIGTERM)
            time.sleep(0.05)
        assert (printed, run.wait(timeout=60)) == ("11 batches\n", 0)


def test_the_number_of_processes_follows_the_threads_on_a_gpu_only() -> None:
    cuda, threads = torch.device("cuda"), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        chosen = [decoders.decoding_processes(None, d) for d in (CPU, cuda)]
        torch.set_num_threads(1)
        chosen.append(decoders.decoding_processes(None, cuda))
    finally:
        torch.set_num_threads(threads)
    assert chosen == [0, 2, 1] and decoders.decoding_processes(5, CPU) == 5


# Division and identity


def test_division_is_seeded_stratified_and_that_of_a_folder_held_in_memory(root: Path) -> None:
    data, again = load(root, train_limit=30), load(root, train_limit=30)
    other = load(root, train_limit=30, split_seed=1)
    assert names(data.train) == names(again.train) and data.fingerprint == again.fingerprint
    assert names(data.train) != names(other.train) and data.fingerprint != other.fingerprint
    assert not set(names(data.train)) & set(names(data.validation))
    share_C = load(root, validation=3).train.labels_N.bincount() / 57
    for part, count in ((data.train, 30), (data.validation, 15)):
        assert len(part) == count
        assert (part.labels_N.bincount() - share_C * count).abs().max() <= 1
        assert [name.split("/")[0] for name in names(part)] == [
            part.class_names[label] for label in part.labels_N
        ]
    resident = load_development_data(config(root, train_limit=30, streaming=False))
    assert torch.equal(resident.train.labels_N, data.train.labels_N)
    assert torch.equal(resident.validation.labels_N, data.validation.labels_N)
    assert len(load(root, validation=0.25).validation) == 15
    with pytest.raises(DataError, match="61 images wanted"):
        load(root, train_limit=61)


def test_fingerprint_knows_names_sizes_and_side_but_not_the_place(tmp_path: Path) -> None:
    for place in ("a", "b"):
        write_digits(tmp_path / place / "train", 30)
    before = load(tmp_path / "a").fingerprint
    assert load(tmp_path / "b", workers=2).fingerprint == before
    assert load(tmp_path / "b", image_size=32).fingerprint != before
    victim = next((tmp_path / "b" / "train" / "1").iterdir())
    victim.write_bytes(victim.read_bytes() + b" ")
    grown = load(tmp_path / "b").fingerprint
    victim.rename(victim.with_stem("zzz"))
    assert len({before, grown, load(tmp_path / "b").fingerprint}) == 3


def test_lists_of_files_survive_the_object_store_without_pixels_or_copies(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    data = load(Path(root.name), workers=1)
    arrays = data.to_arrays()
    monkeypatch.chdir("/")  # a worker may be somewhere else
    for part in ("train", "validation"):
        for array in arrays[part]:
            array.flags.writeable = False  # as Ray hands them out
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = development_data_from_arrays(arrays)
    assert isinstance(back, StreamedData)
    assert back.train.names_N is arrays["train"][0]
    assert sum(array.nbytes for array in arrays["train"]) < 45 * 64
    fields = ("mean_C", "std_C", "flip", "fingerprint", "workers")
    assert [getattr(back, f) for f in fields] == [getattr(data, f) for f in fields]
    assert equal(epoch(back, 0, 0), epoch(data, 0, 0))


def test_undivided_files_are_all_of_them_wherever_they_are_listed(root: Path) -> None:
    divided = load(root, flip=False)
    whole = divided.merged_splits()
    for data in (whole, development_data_from_arrays(whole.to_arrays())):
        assert isinstance(data, StreamedData) and data.has_merged_splits
        assert names(data.train) == names(divided.train) + names(divided.validation)
        assert names(data.validation) == names(divided.validation)
        assert [data.train.labels_N[i] for i in (0, 59)] == [
            divided.train.labels_N[0],
            divided.validation.labels_N[-1],
        ]
        assert data.train.bytes_N.tolist() == [
            data.train.path(index).stat().st_size for index in range(60)
        ]
        assert (data.mean_C, data.flip) == (divided.mean_C, False)
        assert data.fingerprint == whole.fingerprint != divided.fingerprint


# Evaluation


def test_evaluation_sees_every_image_once_in_order(root: Path) -> None:
    files = load(root).train
    batches = StreamedEvaluation(files, IMAGENET_MEAN, IMAGENET_STD, batch_size=7, workers=2)
    for _ in range(2):
        images, labels = map(torch.cat, zip(*batches, strict=True))
        assert len(batches) == 7 and torch.equal(labels, files.labels_N)
        assert images.is_contiguous(memory_format=torch.channels_last)
        for index in range(len(files)):
            whole = v2.functional.pil_to_tensor(Image.open(files.path(index)))
            centre = v2.functional.normalize(
                whole[:, 2:-2, 2:-2] / 255, IMAGENET_MEAN, IMAGENET_STD
            )
            assert torch.allclose(images[index], centre, atol=1e-5)


def test_evaluation_resizes_the_shorter_side_and_takes_the_centre(tmp_path: Path) -> None:
    column = np.repeat(np.arange(128, dtype=np.uint8)[None], 64, axis=0)
    image = Image.fromarray(np.stack([column] * 3, axis=-1))  # 128 wide, 64 high
    image.save(tmp_path / "a.png")
    image.rotate(90, expand=True).save(tmp_path / "b.png")
    files = ImageFiles(
        tmp_path,
        np.array([b"a.png", b"b.png"]),
        np.zeros(2, np.int64),
        torch.tensor([0, 1]),
        ("a", "b"),
        28,
    )
    [(images, _)] = StreamedEvaluation(files, (0.0,) * 3, (1.0,) * 3, batch_size=2)
    wide, high = (images * 255).round()
    assert torch.allclose(wide[0, 0], torch.arange(37, 92, 2) + 0.0, atol=1)  # 64 × 32, then 28
    assert torch.equal(high.rot90(-1, (1, 2)), wide)


def test_accuracy_equals_that_of_the_same_pixels_held_in_memory(root: Path, tmp_path: Path) -> None:
    for path in (root / "train").glob("*/*"):
        target = tmp_path / "train" / path.parent.name / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).crop((2, 2, 30, 30)).save(target)
    resident = load_development_data(config(tmp_path, streaming=False))
    assert isinstance(resident, ResidentData)
    resident = dataclasses.replace(resident, mean_C=IMAGENET_MEAN, std_C=IMAGENET_STD)
    streamed = load(root)
    first = list(resident.validation_batches(6, CPU))
    assert equal(first, list(streamed.validation_batches(6, CPU)))


# Whole runs


def tiny(root: Path, **data: object) -> TrainConfig:
    return TrainConfig(
        data=config(root, image_size=32, **data), model="resnet8", width=0.25, num_peers=2,
        epochs=2, ramp_epochs=1, batch_size=16, lr=0.05, device="cpu", num_threads=1,
    )  # fmt: skip


def test_a_whole_run_resumes_to_the_same_bits_and_its_leader_meets_the_test_set(
    root: Path, tmp_path: Path
) -> None:
    straight = tiny(root)
    data = load_development_data(straight.data)
    with TrainingRun(straight, data, tmp_path / "straight") as run:
        reports = [run.step(), run.step()]
    assert run.trainer.finished and all(0 <= r.leader_accuracy <= 1 for r in reports)

    elsewhere = tiny(root, workers=1)
    for _ in range(2):
        again = load_development_data(elsewhere.data)
        with TrainingRun(elsewhere, again, tmp_path / "stopped") as resumed:
            resumed.step()
    theirs = resumed.trainer.group.state_dict()
    assert all(torch.equal(t, theirs[k]) for k, t in run.trainer.group.state_dict().items())

    info = load_leader(tmp_path / "straight" / "leader").info
    assert (info.input_shape, info.class_names) == ([3, 32, 32], ["0", "1", "2"])
    assert (tuple(info.mean), tuple(info.std)) == (IMAGENET_MEAN, IMAGENET_STD)
    log = tmp_path / "openings.jsonl"
    result, same = open_test(
        [tmp_path / run / "leader" for run in ("straight", "stopped")],
        straight.data,
        log=log,
        reason="a test",
    )
    assert result == same and result.num_images == 24 and 0 <= result.accuracy <= 1
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert events == ["opened", "result", "result"]


def test_the_test_images_are_decoded_once_for_all_leaders(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    folders = [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        network = single_network(
            build_architecture("resnet8", channels=3, num_classes=3, width=0.25)
        )
        normalisation = (list(IMAGENET_MEAN), list(IMAGENET_STD))
        info = LeaderInfo("resnet8", 0.25, list("012"), [3, 28, 28], *normalisation, 0.5, {})
        save_leader(folder, network, info)
    opened: list[Path] = []

    def watch(path: Path) -> Image.Image:
        opened.append(path)
        return open_rgb(path)

    monkeypatch.setattr(decoders, "open_rgb", watch)
    data = config(root, workers=0)
    together = open_test(folders, data, log=tmp_path / "log", reason="")
    assert len(opened) == len(set(opened)) == 24 and {path.parts[-3] for path in opened} == {"test"}
    for folder, result in zip(folders, together, strict=True):
        assert [result] == open_test([folder], data, log=tmp_path / "log", reason="")
    assert len({result.nll for result in together}) == 3


def test_a_trainer_needs_and_opens_no_test_image(tmp_path: Path) -> None:
    write_digits(tmp_path / "train", 30)  # and no folder "test" at all
    run = tiny(tmp_path)
    data = load_development_data(run.data)
    assert Trainer(run, data).run_epoch().epoch == 0
    assert data.train.folder == data.validation.folder == tmp_path / "train"
    with pytest.raises(DataError, match="test"):
        read_image_files(run.data, "test")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named(tmp_path: Path, workers: int) -> None:
    write_digits(tmp_path / "train", 30)
    data = load(tmp_path, workers=workers)
    for path in (tmp_path / "train").glob("2/*.jpg"):
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"6 of 30 images.*data.corrupt: skip"):
        load(tmp_path, workers=workers)
    with pytest.raises(DataError, match=r"cannot be decoded: .*/train/2/\d+\.jpg \(") as caught:
        list(data.training_batches(16, CPU).epoch(0, 0))
    assert "Traceback" not in str(caught.value)
    with pytest.raises(DataError, match="replace or remove"):
        list(data.validation_batches(30, CPU))


@pytest.mark.parametrize("device", DEVICES)
def test_batches_arrive_on_the_device(root: Path, device: str) -> None:
    files = load(root).train
    options = {"flip": True, "batch_size": 16}
    here = StreamedTraining(files, IMAGENET_MEAN, IMAGENET_STD, **options)
    there = StreamedTraining(
        files, IMAGENET_MEAN, IMAGENET_STD, device=device, workers=2, **options
    )
    for (x, y), (other_x, other_y) in zip(here.epoch(0, 0), there.epoch(0, 0), strict=True):
        assert other_x.device.type == device and torch.equal(y, other_y.cpu())
        assert torch.allclose(x, other_x.cpu(), atol=1e-6)
