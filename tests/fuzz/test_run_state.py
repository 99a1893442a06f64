"""Whatever is left of a checkpoint or a leader: it is used whole, or refused in a sentence."""

import dataclasses
import json
import struct
from pathlib import Path

import pytest
import torch
from fuzz_helpers import case, changed, damaged, values
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config.train import TrainConfig
from trainer.data.load import load_development_data
from trainer.engine.checkpoint import CheckpointError, DamagedCheckpointError, load_checkpoint
from trainer.engine.report import EpochReport
from trainer.engine.run import TrainingRun
from trainer.engine.trainer import Trainer
from trainer.leader.files import INFO, WEIGHTS
from trainer.leader.leader import DamagedLeaderError, load_leader

SMALL = TrainConfig(
    data={"name": "digits", "train_limit": 32, "validation": 20},
    model="resnet8", width=0.25, num_peers=1, epochs=2, batch_size=16, num_threads=1,
)  # fmt: skip
REPORT = dict.fromkeys((field.name for field in dataclasses.fields(EpochReport)), 0.5) | {
    "train": {"total": 1.0}, "peer_accuracy": [0.5], "peer_nll": [1.0], "attention": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return load_development_data(SMALL.data)


@pytest.fixture(scope="module")
def files(data, tmp_path_factory):
    """Return what a run of two epochs leaves, by name; nothing has to be learnt for it."""
    home = tmp_path_factory.mktemp("run")
    with TrainingRun(SMALL, data, home) as run:
        run.trainer.history = [EpochReport(**{**REPORT, "epoch": epoch}) for epoch in (0, 1)]
        run.trainer.save(home)
        run._save_leader()
    kept = [*home.glob("state*"), *(home / "leader").iterdir()]
    return {path.name: path.read_bytes() for path in kept}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


@pytest.fixture(scope="module")
def trainer(data):
    return Trainer(SMALL, data)


def lay(home: Path, files, changed_name: str, content: bytes) -> None:
    for name, original in files.items():
        path = home / name
        path.write_bytes(content if name == changed_name else original)


def tensor_file(files) -> str:
    return next(name for name in files if name.startswith("state-"))


def state_of(trainer):
    tensors = {name: tensor.clone() for name, tensor in trainer.learner.tensors().items()}
    return tensors, list(trainer.history)


def require_whole(trainer, home) -> None:
    """Load into a trainer: either all of the state is taken over, or nothing of it."""
    before, history = state_of(trainer)
    try:
        assert trainer.load(home)
    except DamagedCheckpointError:
        after, history_after = state_of(trainer)
        assert history_after == history and before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        raise
    assert trainer.epoch == len(trainer.history) <= SMALL.epochs


# Checkpoints


@settings(max_examples=350)
@given(st.data())
def test_a_damaged_commit_is_refused_or_the_whole_state_is_taken(files, home, trainer, data):
    lay(home, files, "state.json", data.draw(damaged(files["state.json"])))
    with case("checkpoint, state.json damaged", CheckpointError):
        require_whole(trainer, home)


@settings(max_examples=300)
@given(st.data())
def test_changed_values_in_a_commit_are_refused_or_the_state_is_taken(files, home, trainer, data):
    meta = json.loads(files["state.json"])
    meta_now = data.draw(changed(meta))
    lay(home, files, "state.json", json.dumps(meta_now).encode())
    with case("checkpoint, state.json changed", CheckpointError):
        require_whole(trainer, home)
        assert "crc32" not in meta_now or meta_now == meta, "changed values were taken for good"


@settings(max_examples=300)
@given(values)
def test_a_commit_that_is_something_else_is_refused(files, home, trainer, value):
    lay(home, files, "state.json", json.dumps(value).encode())
    with case("checkpoint, state.json changed", CheckpointError, fatal=True):
        require_whole(trainer, home)


@settings(max_examples=600)
@given(st.data())
def test_one_damaged_byte_of_the_tensors_is_found(files, home, trainer, data):
    name = tensor_file(files)
    content = data.draw(damaged(files[name]))
    lay(home, files, name, content)
    with case("checkpoint, tensors damaged", DamagedCheckpointError):
        require_whole(trainer, home)
        assert content == files[name], "damaged tensors were taken for whole ones"


def test_every_class_of_offsets_of_a_torn_state_is_found(files, home, trainer):
    """Cut both files at the start, in and around the header, at tensors' ends, and at the end."""
    name = tensor_file(files)
    header = struct.unpack("<Q", files[name][:8])[0]
    spans = json.loads(files[name][8 : 8 + header])
    ends = {8 + header + end for entry in spans.values() if "data_offsets" in entry
            for end in entry["data_offsets"]}  # fmt: skip
    for torn, offsets in (
        (name, {0, 1, 7, 8, 9, 8 + header - 1, 8 + header, 8 + header + 1} | ends),
        ("state.json", set(range(0, len(files["state.json"]) - 1, 97)) | {1, 2}),
    ):
        for offset in sorted(offsets - {len(files[torn])}):
            for filler in (b"", bytes(len(files[torn]) - offset)):
                lay(home, files, torn, files[torn][:offset] + filler)
                if files[torn][:offset] + filler == files[torn]:
                    continue
                with case("checkpoint, torn", DamagedCheckpointError, fatal=True):
                    require_whole(trainer, home)


DEEP = b"[" * 100_000
HEADERS = {
    "huge header": struct.pack("<Q", 1 << 62) + b"{}",
    "huge tensor": b'{"a":{"dtype":"F32","shape":[1000000000,1000000000],"data_offsets":[0,4]}}',
    "overflowing shape": b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],'
    b'"data_offsets":[0,0]}}',
    "negative shape": b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
    "no such type": b'{"a":{"dtype":"Q99","shape":[1],"data_offsets":[0,4]}}',
    "type that torch lacks": b'{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}',
    "exponents": b'{"a":{"dtype":"F8_E8M0","shape":[4],"data_offsets":[0,4]}}',
    "overlap": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "equal names": b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},'
    b'"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}',
    "deep": DEEP,
    "nothing": b"{}",
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}  # fmt: skip


def with_header(content: bytes) -> bytes:
    return content if content[8:9] == b"{" else struct.pack("<Q", len(content)) + content + bytes(4)


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_a_tensor_file_made_to_hurt_is_refused(files, home, trainer, header):
    name, content = tensor_file(files), with_header(header)
    meta = json.loads(files["state.json"])
    meta["tensor_bytes"] = len(content)
    lay(home, files, name, content)
    (home / "state.json").write_text(json.dumps(meta))
    with case("checkpoint, made to hurt", CheckpointError, fatal=True):
        require_whole(trainer, home)
    lay(home, files, WEIGHTS, content)
    with case("leader, made to hurt", DamagedLeaderError, fatal=True):
        load_leader(home)


@pytest.mark.parametrize("name", ["state.json", INFO])
@pytest.mark.parametrize(
    "content", [b"", bytes(100), DEEP, b"[]", b"{}", b"null", "{é".encode("latin-1"), b'"' * 3]
)
def test_a_json_file_made_to_hurt_is_refused(files, home, trainer, name, content):
    lay(home, files, name, content)
    if name == INFO:
        with case("leader, made to hurt", DamagedLeaderError, fatal=True):
            load_leader(home)
    else:
        with case("checkpoint, made to hurt", CheckpointError, fatal=True):
            require_whole(trainer, home)


def test_the_whole_state_is_taken(files, home, trainer):
    lay(home, files, "", b"")
    for reader in ("torn", "made to hurt", "tensors damaged"):
        with case(f"checkpoint, {reader}", CheckpointError):
            assert load_checkpoint(home) is not None
            require_whole(trainer, home)
    for reader in ("leader, made to hurt", "leader, bytes damaged"):
        with case(reader, DamagedLeaderError):
            load_leader(home)


# Leaders


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_leader_is_refused_or_can_be_used(files, home, data):
    name = data.draw(st.sampled_from([INFO, WEIGHTS]))
    lay(home, files, name, data.draw(damaged(files[name])))
    with case("leader, bytes damaged", DamagedLeaderError):
        leader = load_leader(home)
        leader.module(leader.example_images())


@settings(max_examples=300)
@given(st.data())
def test_a_leader_with_changed_facts_is_refused_or_can_be_used(files, home, data):
    facts = json.loads(files[INFO])
    lay(home, files, INFO, json.dumps(data.draw(changed(facts))).encode())
    with case("leader, facts changed", DamagedLeaderError):
        leader = load_leader(home)
        leader.module(leader.example_images())


@pytest.mark.parametrize(
    ("key", "value"),
    [("width", 1e9), ("width", 8.0), ("input_shape", [10**9, 8, 8]), ("input_shape", [1, 10**9, 8]),
     ("input_shape", []), ("input_shape", "abc"), ("class_names", ["a"] * 100_000), ("model", "x"),
     ("class_names", 7), ("mean", [0.0] * 5), ("std", [0.0]), ("std", [float("nan")]),
     ("validation_accuracy", "high"), ("trained_with", None), ("odd", 1)],
)  # fmt: skip
def test_impossible_facts_of_a_leader_are_refused_by_name(files, home, key, value):
    facts = {**json.loads(files[INFO]), key: value}
    lay(home, files, INFO, json.dumps(facts).encode())
    with case("leader, facts changed", DamagedLeaderError, fatal=True):
        load_leader(home)
