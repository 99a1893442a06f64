"""YAML without its traps, and with the line of every value.

``yaml.safe_load`` forgets lines, lets the last of two equal keys win, reads ``1e-4`` as text,
``on`` as true and ``1:30`` as ninety, and expands aliases without limit. A space file is short and
written by hand, so here numbers and booleans follow YAML 1.2's core rules, a key may stand once,
and anchors, aliases, merge keys and tags are refused.
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from okddip_search.errors import UserError

KeyPath = tuple[str | int, ...]

MAX_BYTES = 256 * 1024  # a space is a page or two: more is some other file
MAX_DEPTH = 20

_TAG = "tag:yaml.org,2002:"
_RESOLVERS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
)


class YamlError(Exception):
    """Text that cannot be read at all.

    Attributes:
        line: Line number, from 1.
        text: What is wrong.
    """

    def __init__(self, line: int, text: str) -> None:
        """Note the place and what is wrong there."""
        self.line = line
        self.text = text
        super().__init__(f"{line}: {text}")


class _Loader(yaml.SafeLoader):
    """Composes nodes only; it never constructs a Python object."""

    yaml_implicit_resolvers = {}
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if getattr(event, "anchor", None) is not None:
            raise YamlError(
                line, "anchors (&) and aliases (*) are not allowed: write the value out"
            )
        if self._depth == MAX_DEPTH:
            raise YamlError(line, f"nested more than {MAX_DEPTH} levels deep")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _Dumper(yaml.SafeDumper):
    """Quotes what ``_Loader`` would read as something other than text."""

    yaml_implicit_resolvers = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), list(_first))


def dump_yaml(values: Any) -> str:
    """Write plain values so that ``parse_yaml`` reads the same values back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


@dataclass
class Parsed:
    """Plain values with the place of each.

    Attributes:
        values: Mappings, lists and scalars; None for an empty text.
        lines: Line (from 1) of every value, by its path; a mapping's entry has its key's line.
        problems: Line and text of what was wrong but did not stop the reading.
    """

    values: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)


def parse_yaml(text: str) -> Parsed:
    """Read YAML text.

    Raises:
        YamlError: The text cannot be read.
    """
    parsed = Parsed()
    root = _compose(text)
    if root is not None:
        parsed.lines[()] = root.start_mark.line + 1
        parsed.values = _plain(root, (), parsed)
    return parsed


def _compose(text: str) -> yaml.Node | None:
    try:
        return _Loader(text).get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        code = f"U+{ord(text[int(error.position)]):04X}"
        raise YamlError(line, f"the character {code} is not allowed in YAML") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = "; indent with spaces, not tabs" if "'\\t'" in (error.problem or "") else ""
        what = ": ".join(part for part in (error.context, error.problem) if part)
        text = f"not valid YAML: {what}{hint}"
        raise YamlError(mark.line + 1 if mark else 1, text) from None


def _plain(node: yaml.Node, path: KeyPath, parsed: Parsed) -> Any:
    line = node.start_mark.line + 1
    kind = node.tag.removeprefix(_TAG)
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return _mapping(node, path, parsed)
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return _sequence(node, path, parsed)
    try:
        return _scalar(kind, str(node.value))
    except ValueError as error:
        parsed.problems.append((line, str(error)))
        return None


def _mapping(node: yaml.MappingNode, path: KeyPath, parsed: Parsed) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            parsed.problems.append((line, "a key must be a plain word"))
            continue
        key = str(key_node.value)  # as written: `on: 1` has the key "on"
        if key in values:
            first = parsed.lines[(*path, key)]
            parsed.problems.append((line, f"duplicate key '{key}' (first on line {first})"))
            continue
        parsed.lines[(*path, key)] = line
        values[key] = _plain(value_node, (*path, key), parsed)
    return values


def _sequence(node: yaml.SequenceNode, path: KeyPath, parsed: Parsed) -> list[Any]:
    values = []
    for index, item in enumerate(node.value):
        parsed.lines[(*path, index)] = item.start_mark.line + 1
        values.append(_plain(item, (*path, index), parsed))
    return values


def _scalar(kind: str, text: str) -> Any:
    match kind:
        case "str":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return _whole_number(text)
        case "float":
            value = float(text)
            if not math.isfinite(value):
                raise ValueError(f"{text} is not a finite number")
            return value
    raise ValueError(f"tags such as {kind} are not allowed")


def _whole_number(text: str) -> int:
    if len(text) > 30:  # Python itself refuses to read integers of thousands of digits
        raise ValueError(f"{text[:12]}… is too large a number")
    base = {"0x": 16, "0o": 8}.get(text[:2], 10)
    return int(text, base)


def dotted(path: KeyPath) -> str:
    """Return ``search.lr.choices[2]`` for the path of a value."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class Document:
    """A space file as raw values that knows where each came from and collects complaints.

    Attributes:
        name: File name as it stands in messages.
        values: The raw mapping; ``override`` changes it.
    """

    def __init__(self, path: Path) -> None:
        """Read a file.

        Raises:
            UserError: It cannot be read, or is not one YAML mapping.
        """
        self.name = str(path)
        self._overrides: list[tuple[KeyPath, str]] = []
        self._complaints: dict[str, float] = {}  # text to its rank
        try:
            parsed = parse_yaml(_read_text(path))
        except YamlError as error:
            raise UserError(f"{self.name}:{error.line}: {error.text}") from None
        if parsed.values is None and not parsed.problems:
            raise UserError(f"{self.name}:1: the file is empty")
        if not isinstance(parsed.values, dict):
            line = parsed.lines[()]
            raise UserError(
                f"{self.name}:{line}: a space is a mapping of sections (name:, data:, …)"
            )
        self.values: dict[str, Any] = parsed.values
        self._lines = parsed.lines
        for line, text in parsed.problems:
            self._complaints[f"{self.name}:{line}: {text}"] = line

    def override(self, path: KeyPath, value: Any, label: str) -> None:
        """Put a value from the command line in its place, making sections that are not there."""
        target = self.values
        for part in path[:-1]:
            inner = target.get(str(part))
            if inner is None:
                inner = target[str(part)] = {}
            if not isinstance(inner, dict):
                raise UserError(f"{label}: '{part}' is not a mapping: set it as a whole")
            target = inner
        target[str(path[-1])] = value
        self._overrides.append((path, label))

    def complain(self, path: KeyPath, text: str) -> None:
        """Note that the value at a path is wrong."""
        label = self._override_of(path)
        if label is not None:
            same = label == f"--set {dotted(path)}" or not label.startswith("--set ")
            self._complaints[f"{label}: {text}" if same else f"{label}: {dotted(path)}: {text}"] = 0
            return
        line = self._line_of(path)
        where = f"{dotted(path)}: " if path else ""
        self._complaints[f"{self.name}:{line}: {where}{text}"] = line

    def is_overridden(self, path: KeyPath) -> bool:
        """Say whether the value at a path, or a part of it, comes from the command line."""
        return self._override_of(path) is not None

    def check(self) -> None:
        """Raise one UserError with all complaints, in the order of the file, if there are any."""
        if self._complaints:
            ranked = sorted(self._complaints, key=lambda text: self._complaints[text])
            raise UserError("\n".join(ranked))

    def _override_of(self, path: KeyPath) -> str | None:
        for changed, label in reversed(self._overrides):
            inside = path[: len(changed)] == changed
            around = len(path) > 0 and changed[: len(path)] == path
            if inside or around:
                return label
        return None

    def _line_of(self, path: KeyPath) -> int:
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines[path]


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise YamlError(1, f"larger than {MAX_BYTES // 1024} KiB: this is no space file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlError(line, f"byte 0x{data[error.start]:02x} is not UTF-8 text") from None
