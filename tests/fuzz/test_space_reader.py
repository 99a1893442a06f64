"""Whatever a space file holds: a space that can be run, or an error with its line."""

import json
from pathlib import Path

import pytest
import yaml
from fuzz_helpers import NASTY_NUMBERS, NASTY_TEXTS, case, changed, damaged, scalars, values
from hypothesis import example, given, settings
from hypothesis import strategies as st

from okddip_search.cli.explain import first_params
from okddip_search.errors import UserError
from okddip_search.space.document import Document
from okddip_search.space.load import bundled_spaces, load_space
from trainer.io.yaml import MAX_BYTES

SMALL = {
    "name": "t",
    "data": {"name": "image_folder", "root": "x", "image_size": 32, "validation": 0.1},
    "trainer": {"epochs": 5, "model": "resnet8", "width": 0.5, "teacher": {"model": "resnet8"}},
    "search": {
        "lr": {"type": "float", "low": 0.01, "high": 1.0, "log": True},
        "weight_decay": {"type": "float", "low": 0.0, "high": 0.5, "step": 0.1},
        "num_peers": {"type": "int", "low": 1, "high": 4},
        "lr_schedule": {"type": "categorical", "choices": ["multistep", "cosine"]},
        "lr_decay": {"type": "float", "low": 0.1, "high": 0.5, "when": {"lr_schedule": "cosine"}},
    },
    "enqueue": [{"lr": 0.1, "num_peers": 3, "lr_schedule": "cosine", "lr_decay": 0.1}],
    "objective": {"metric": "leader_accuracy", "reduce": "last"},
    "study": {
        "trials": 20,
        "timeout": "8h",
        "sampler": {"type": "tpe", "n_startup_trials": 10, "n_ei_candidates": 24},
        "pruner": {"type": "median", "n_warmup_steps": 3},
        "seed": 0,
    },
    "resources": {"cpus_per_trial": 1.0, "gpus_per_trial": None, "max_concurrent": 2},
    "confirm": {"top": 3, "seeds": 5, "methods": ["single", "kd"]},
}  # fmt: skip
CHOICES = [
    {"type": "hyperband", "min_resource": 1, "max_resource": 5, "reduction_factor": 3},
    {"type": "successive_halving", "min_resource": 1, "min_early_stopping_rate": 0},
    {"type": "percentile", "percentile": 25.0, "n_min_trials": 1},
    {"type": "patient", "patience": 3, "min_delta": 0.1, "wrapped": {"type": "median"}},
]
SAMPLERS = [
    {"type": "random"},
    {"type": "qmc", "qmc_type": "sobol", "scramble": True},
    {"type": "tpe", "multivariate": True, "group": False, "constant_liar": True},
    {"type": "grid"},
]
BUNDLED = {name: path.read_bytes() for name, path in bundled_spaces().items()}
LINES = b"".join(BUNDLED.values()).splitlines(keepends=True)


def as_yaml(value: object) -> bytes:
    """Write a value as JSON does, which is YAML, too; YAML's own writer is too well-behaved."""
    return json.dumps(value).encode()


def as_block_yaml(value: object) -> bytes:
    return yaml.dump(value, sort_keys=False, allow_unicode=True).encode(errors="surrogatepass")


def require_usable(path: Path) -> None:
    """Do with a space what a search does with it before it starts."""
    spec = load_space(path)
    spec.example()
    spec.largest()
    first_params(spec)
    path.write_text(spec.to_yaml(), encoding="utf-8")
    assert load_space(path) == spec, "spec.yaml does not hold the space as it was run"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("spaces") / "t.yaml"


@settings(max_examples=500)
@given(values=changed(SMALL), write=st.sampled_from([as_yaml, as_block_yaml]))
def test_a_changed_space_is_usable_or_refused(path, values, write):
    path.write_bytes(write(values))
    with case("space, values changed", UserError):
        require_usable(path)


@settings(max_examples=400)
@given(st.data())
def test_a_changed_range_sampler_or_pruner_is_usable_or_refused(path, data):
    new = st.one_of(scalars, st.sampled_from([*CHOICES, *SAMPLERS]))
    section = data.draw(st.sampled_from(["search", "study", "enqueue", "confirm"]))
    study = SMALL["study"] | {
        "pruner": data.draw(st.sampled_from(CHOICES)),
        "sampler": data.draw(st.sampled_from(SAMPLERS)),
    }
    space = {**SMALL, "study": study}
    space[section] = data.draw(changed(space[section], new))
    path.write_bytes(as_yaml(space))
    with case("space, one section changed", UserError):
        require_usable(path)


@settings(max_examples=1000)
@given(st.data())
def test_a_damaged_bundled_space_is_read_or_refused(path, data):
    content = BUNDLED[data.draw(st.sampled_from(sorted(BUNDLED)))]
    path.write_bytes(data.draw(damaged(content)))
    with case("space, bytes damaged", UserError):
        Document(path).check()


@settings(max_examples=1200)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.lists(st.sampled_from(LINES), max_size=12).map(b"".join),
        st.text(alphabet="\t \n-?:,[]{}#&*!|>'\"%@`ab1.\\", max_size=60).map(str.encode),
    )
)
def test_any_bytes_are_a_document_or_refused(path, content):
    path.write_bytes(content)
    with case("document, any bytes", UserError):
        Document(path).check()


@settings(max_examples=300)
@given(st.data())
def test_set_on_the_command_line_is_usable_or_refused(path, data):
    path.write_bytes(as_yaml(SMALL))
    known = ["data.root", "trainer.epochs", "search.lr.low", "study.pruner.type", "study.sampler",
             "enqueue", "name", "confirm.seeds", "search.lr.when.num_peers"]  # fmt: skip
    key = data.draw(
        st.one_of(
            st.sampled_from(known),
            st.text(alphabet="abn.e=", max_size=12),
            st.sampled_from(NASTY_TEXTS),
        )
    )
    value = data.draw(st.one_of(values.map(json.dumps), st.sampled_from(NASTY_TEXTS)))
    with case("space, --set", UserError):
        load_space(path, [f"{key}={value}"])


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
WHOLE_FILES = {
    "billion laughs": BOMB.encode(),
    "alias to itself": b"a: &a [*a]\n",
    "merge key": b"a: &a {b: 1}\nc:\n  <<: *a\n",
    "deep flow": b"a: " + b"[" * 100_000,
    "deep flow, closed": b"a: " + b"[" * 20_000 + b"]" * 20_000,
    "deep mapping": b"{a: " * 50_000,
    "deep block": b"".join(b" " * i + b"a:\n" for i in range(700)),
    "deep dashes": b"- " * 100_000,
    "deep question marks": b"? " * 100_000,
    "many keys": b"".join(b"k%d: 1\n" % i for i in range(25_000)),
    "many unknown fields": b"trainer:\n" + b"".join(b"  k%d: 1\n" % i for i in range(4_000)),
    "many equal keys": b"name: 1\n" * 25_000,
    "many values": b"search: {model: {type: categorical, choices: [" + b"1," * 100_000 + b"]}}",
    "many choices": b"search: {model: {type: categorical, choices: ["
    + b",".join(b"a%d" % i for i in range(4_900)) + b"]}}",
    "many enqueued": b"name: t\ndata: {name: digits}\n"
    b"search: {lr: {type: float, low: 0.1, high: 1}}\nenqueue: ["
    + b",".join(b"{lr: 0.%d}" % (1000 + i) for i in range(2_400))
    + b"]\n",
    "long text": b"name: " + b"x" * 200_000,
    "long key": b"x" * 200_000 + b": 1",
    "long number": b"name: " + b"9" * 200_000,
    "long fraction": b"name: 0." + b"9" * 200_000,
    "long comment": b"#" * 200_000,
    "many documents": b"---\n" * 50_000,
    "too large": b"a" * (MAX_BYTES + 1),
    "nothing": b"",
    "zeros": bytes(4096),
    "NUL": b"name: a\0b",
    "escaped NUL": b'name: "a\\0b"',
    "half a surrogate pair": b'name: "\\ud800"',
    "beyond Unicode": b'name: "\\UFFFFFFFF"',
    "terminal escape in a key": b'"\\e[31m": 1',
    "terminal escape": b'data: {name: "\\e[31m"}',
    "bell in a root": b'name: t\ndata: {name: image_folder, image_size: 8, root: "\\a"}\n'
    b"search: {lr: {type: float, low: 0.1, high: 1}}",
    "UTF-16": "name: tést\n".encode("utf-16"),
    "UTF-32": "name: tést\n".encode("utf-32"),
    "Latin-1": "name: tést\n".encode("latin-1"),
    "only a byte order mark": b"\xef\xbb\xbf",
    "a Python object": b"name: !!python/object/apply:os.system ['true']",
    "a binary": b"name: !!binary aGVsbG8=",
    "a set": b"name: !!set {a, b}",
    "a date": b"name: 2024-01-01",
    "a time": b"study: {timeout: 2024-01-01T00:00:00Z}",
    "sexagesimal": b"study: {timeout: 190:20:30}",
    "infinity": b"study: {timeout: .inf}",
    "no number": b"study: {timeout: .nan}",
    "beyond a float": b"study: {timeout: 1e400}",
    "a list as a key": b"[a, b]: 1",
    "equal keys": b"name: a\nname: b\n",
    "a directive": b"%YAML 9.9\n---\nname: a\n",
    "tabs": b"data:\n\tname: digits\n",
}  # fmt: skip


@pytest.mark.parametrize("content", WHOLE_FILES.values(), ids=WHOLE_FILES.keys())
def test_a_file_made_to_hurt_is_refused_with_its_line(path, content):
    path.write_bytes(content)
    refused = False
    with case("space, made to hurt", UserError):
        try:
            load_space(path)
        except UserError as error:
            refused = str(error).startswith(f"{path}:") and error.message.split(":")[1].isdigit()
            raise
    assert refused


def test_a_byte_order_mark_and_windows_lines_are_no_fault(path):
    path.write_bytes(b"\xef\xbb\xbf" + BUNDLED["digits.yaml"].replace(b"\n", b"\r\n"))
    with case("space, made to hurt", UserError):
        assert load_space(path) == load_space("digits")


@pytest.mark.parametrize(
    "key",
    ["trainer.num_peers", "trainer.epochs", "trainer.batch_size", "trainer.width", "study.trials",
     "data.image_size", "data.workers", "confirm.seeds", "confirm.top", "resources.trials_per_gpu",
     "study.sampler.n_ei_candidates", "study.sampler.n_startup_trials"],
)  # fmt: skip
def test_a_billion_is_refused_with_the_range(path, key):
    path.write_bytes(as_yaml(SMALL))
    with pytest.raises(UserError, match=r"\[\d+.*, \d+.*\]"):
        load_space(path, [f"{key}=1000000000"])


@example(["search.lr.low=1e-320"])
@settings(max_examples=100)
@given(
    st.lists(
        st.builds(
            "search.{}.{}={}".format,
            st.sampled_from(["lr", "weight_decay", "num_peers"]),
            st.sampled_from(["low", "high", "step", "log"]),
            st.sampled_from([n for n in NASTY_NUMBERS if n != 10**400]),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_the_ends_and_steps_of_a_range_may_be_anything(path, overrides):
    path.write_bytes(as_yaml(SMALL))
    with case("space, ranges", UserError):
        spec = load_space(path, overrides)
        first_params(spec)
        spec.largest()
