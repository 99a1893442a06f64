"""What every test of bad input shares: one reaped case, and what to do to bytes and values."""

import resource
import signal
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

CASE_CPU_S = 5.0
CASE_MEMORY_BYTES = 2 << 30
"""Of address space, beside what the process has already: threads and arenas take hundreds of MB."""
LONGEST_MESSAGE = 20_000  # characters


@dataclass
class Count:
    """Cases of one reader.

    Attributes:
        cases: All of them.
        refused: Those that ended in an error which the user is meant to see.
    """

    cases: int = 0
    refused: int = 0


COUNTS: dict[str, Count] = {}


class TooSlowError(BaseException):
    """A case took more CPU time than any input is worth; no ``except Exception`` hides it."""


@contextmanager
def case(reader: str, *errors: type[Exception], fatal: bool = False) -> Iterator[None]:
    """Count a case, and let nothing out of it but what no user is meant to see.

    Args:
        reader: Whose case it is, for the table.
        errors: What may be raised; its message must be fit for a terminal.
        fatal: Whether it must be raised.
    """
    count = COUNTS.setdefault(reader, Count())
    count.cases += 1
    with _limited():
        try:
            yield
        except errors as error:
            count.refused += 1
            _require_fit(str(error))
        else:
            assert not fatal, "this was taken for good"


@contextmanager
def _limited() -> Iterator[None]:
    """Limit CPU time and memory; pytest-timeout has the clock on the wall."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + CASE_MEMORY_BYTES, hard))
    earlier = signal.signal(signal.SIGPROF, _too_slow)
    signal.setitimer(signal.ITIMER_PROF, CASE_CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, earlier)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _too_slow(*_: object) -> None:
    raise TooSlowError(f"more than {CASE_CPU_S} s of CPU time")


def _require_fit(message: str) -> None:
    assert message.strip(), "an error without a word"
    assert len(message) <= LONGEST_MESSAGE, f"{len(message)} characters: {message[:200]}…"
    message.encode()  # a half of a surrogate pair would end the command with a traceback
    odd = {c for c in message if unicodedata.category(c) == "Cc"} - {"\n", "\t"}
    assert not odd, f"a terminal would obey {odd}: {message!r}"


# What is in the wrong place

NASTY_TEXTS = [
    "", " ", "\0", "\n", "a\nb", "\x1b[2J", "\ud800", "\u202e", "é", "~", "~nobody/x", "/dev/zero",
    "../../x", "null", "true", "1e400", ".nan", "2024-01-01", "!!python/object", "x" * 5000,
]  # fmt: skip
NASTY_NUMBERS = [
    0, -0.0, -1, 1, 2, 0.5, 1e9, 10**9, 10**18, 2**63, 2**64, 10**29, 10**400, 1e308, 5e-324,
    1e-300, float("inf"), float("-inf"), float("nan"),
]  # fmt: skip
WORDS = ["multistep", "cosine", "dml", "kd", "single", "okddip", "resnet8", "wrn16_2", "auto",
         "cpu", "fp32", "branch", "network", "median", "none", "tpe", "random", "gp", "best",
         "1h30m", "x", "digits", "image_folder", "float", "int", "categorical"]  # fmt: skip
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NASTY_NUMBERS),
    st.sampled_from(NASTY_TEXTS),
    st.integers(-10, 400),
    st.floats(),
    st.text(max_size=8),
)
keys = st.one_of(st.sampled_from(NASTY_TEXTS), st.text(max_size=8))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=8,
)


def nested(depth: int) -> Any:
    """Return a list in a list in a list."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a nest of mappings and lists, but the root's."""
    found = []
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        found.append((*path, key))
        if isinstance(inner, (dict, list)):
            found += places(inner, (*path, key))
    return found


@st.composite
def changed(draw: st.DrawFn, original: Any, new: st.SearchStrategy[Any] = values) -> Any:
    """Return a copy of a nest of values with one or two varied, replaced, removed or added."""
    copy = _copied(original)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        paths = places(copy)
        if not paths:
            break
        *outer, last = draw(st.sampled_from(paths))
        target = copy
        for key in outer:
            target = target[key]
        match draw(st.sampled_from(["vary", "vary", "replace", "replace", "remove", "add"])):
            case "vary":
                target[last] = draw(_near(target[last]))
            case "replace":
                target[last] = _copied(draw(new))
            case "remove":
                del target[last]
            case "add" if isinstance(target, dict):
                target[draw(keys)] = _copied(draw(new))
            case "add":
                target.append(_copied(draw(new)))
    return copy


def _near(value: Any) -> st.SearchStrategy[Any]:
    """Return values that may be as good as this one: more of them get past the first check."""
    match value:
        case bool():
            return st.just(not value)
        case int():
            return st.integers(-1, 3).map(lambda step: value + step)
        case float():
            return st.sampled_from([0.01, 0.5, 1.0, 1.1, 2, 3.0]).map(lambda factor: value * factor)
        case str():
            return st.sampled_from(WORDS)
        case _:
            return scalars


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Return bytes as a crash or a bad disk leaves them: cut, zeroed, flipped, doubled, in pieces.

    Places are drawn from both ends, too: that is where headers and checksums are.
    """
    near = st.one_of(
        st.integers(0, len(content)),
        st.integers(0, min(32, len(content))),
        st.integers(max(0, len(content) - 32), len(content)),
    )
    at = draw(near)
    match draw(
        st.sampled_from(["cut", "flip", "flip", "zeros", "noise", "insert", "drop", "swap"])
    ):
        case "cut":
            return content[:at]
        case "flip":
            raw = bytearray(content or b"\0")
            for _ in range(draw(st.integers(1, 4))):
                raw[min(draw(near), len(raw) - 1)] ^= 1 << draw(st.integers(0, 7))
            return bytes(raw)
        case "zeros":
            return content[:at] + bytes(len(content) - at)
        case "noise":
            noise = draw(st.binary(min_size=1, max_size=16))
            return content[:at] + noise + content[at + len(noise) :]
        case "insert":
            return content[:at] + draw(st.binary(min_size=1, max_size=16)) + content[at:]
        case "drop":
            return content[:at] + content[at + draw(st.integers(1, 64)) :]
        case _:
            return content[at:] + content[:at]
