"""YAML without its traps, and with the line of every value; for all that a user writes.

``yaml.safe_load`` forgets lines, lets the last of two equal keys win, reads ``1e-4`` as text,
``on`` as true and ``1:30`` as ninety, and expands aliases without limit. A space or a
configuration is short and written by hand, so here numbers and booleans follow YAML 1.2's core
rules, a key may stand once, and tags are refused. Anchors, aliases and merge keys (``<<``) are
expanded while all values together stay few. Time and memory are bounded, whatever the bytes are.
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import TrainerError
from trainer.io.text import is_plain, truncate

KeyPath = tuple[str | int, ...]
_Entry = tuple[yaml.Node, yaml.Node]

MAX_BYTES = 256 * 1024  # a space is a page or two: more is some other file
MAX_DEPTH = 20
MAX_VALUES = 5_000
MAX_KEY = 100  # characters

TOO_MANY = f"more than {MAX_VALUES:,} values: this is no file for this tool"
LONG_TEXT = 1000
"""Characters of a text that count as one value more: it may be repeated by aliases."""

_TAG = "tag:yaml.org,2002:"
_RESOLVERS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
)


class YamlError(TrainerError):
    """Text that cannot be read at all.

    Attributes:
        line: Line number, from 1.
        text: The problem.
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
    _count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if self._depth == MAX_DEPTH:
            raise YamlError(line, f"nested more than {MAX_DEPTH} levels deep")
        self._count += 1
        if self._count > MAX_VALUES:
            raise YamlError(line, TOO_MANY)
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
        count: Values so far, each alias counted with all that it stands for.
    """

    values: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)
    count: int = 0

    def count_in(self, node: yaml.Node, depth: int) -> None:
        """Count a value; aliases can make many of few, or one within itself.

        Raises:
            YamlError: It is one too many, or too deep.
        """
        is_text = isinstance(node, yaml.ScalarNode)
        self.count += 1 + (len(node.value) // LONG_TEXT if is_text else 0)
        line = node.start_mark.line + 1
        if self.count > MAX_VALUES:
            raise YamlError(line, TOO_MANY)
        if depth > MAX_DEPTH:
            raise YamlError(line, f"nested more than {MAX_DEPTH} levels deep")


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


def parse_plain(text: str, *, is_text: bool = False) -> Any:
    """Read a value that stands alone: a number, true, false, null or text, without YAML's marks.

    Args:
        text: The value.
        is_text: Whether it is text, whatever it looks like.

    Raises:
        ValueError: A number too large, or a character that no text needs.
    """
    bare = text.strip()
    for kind, pattern, _ in () if is_text else _RESOLVERS:
        if re.fullmatch(pattern, bare):
            return _scalar(kind, bare)
    return _scalar("str", text)


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
        text = f"not valid YAML: {truncate(what, 300)}{hint}"
        raise YamlError(mark.line + 1 if mark else 1, text) from None
    except (ValueError, OverflowError):  # PyYAML passes any "\Uxxxxxxxx" on to chr()
        raise YamlError(1, "not valid YAML: an escape in quotes is beyond Unicode") from None


def _plain(node: yaml.Node, path: KeyPath, parsed: Parsed) -> Any:
    parsed.count_in(node, len(path))
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
    for key_node, value_node in _entries(node, parsed, len(path)):
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            parsed.problems.append((line, "a key must be a plain word"))
            continue
        key = str(key_node.value)  # as written: `on: 1` has the key "on"
        if len(key) > MAX_KEY or not is_plain(key):
            parsed.problems.append((line, f"{truncate(key)} is no key: a key is a plain word"))
            continue
        if key in values:
            first = parsed.lines[(*path, key)]
            parsed.problems.append((line, f"duplicate key '{key}' (first on line {first})"))
            continue
        parsed.lines[(*path, key)] = line
        values[key] = _plain(value_node, (*path, key), parsed)
    return values


def _entries(node: yaml.MappingNode, parsed: Parsed, depth: int) -> list[_Entry]:
    """Return a mapping's entries, then those that its merge keys (``<<``) add."""
    entries = [entry for entry in node.value if not _is_merge(entry[0])]
    known = {_word(key) for key, _ in entries}
    for _, value in (entry for entry in node.value if _is_merge(entry[0])):
        for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            parsed.count_in(source, depth)
            if not isinstance(source, yaml.MappingNode):
                text = "a merge key (<<) takes a mapping, or a list of them"
                parsed.problems.append((source.start_mark.line + 1, text))
                continue
            for entry in _entries(source, parsed, depth + 1):
                if _word(entry[0]) not in known:
                    known.add(_word(entry[0]))
                    entries.append(entry)
    return entries


def _word(key: yaml.Node) -> str | None:
    return str(key.value) if isinstance(key, yaml.ScalarNode) else None


def _is_merge(key: yaml.Node) -> bool:
    return isinstance(key, yaml.ScalarNode) and key.value == "<<" and key.style is None


def _sequence(node: yaml.SequenceNode, path: KeyPath, parsed: Parsed) -> list[Any]:
    values = []
    for index, item in enumerate(node.value):
        parsed.lines[(*path, index)] = item.start_mark.line + 1
        values.append(_plain(item, (*path, index), parsed))
    return values


def _scalar(kind: str, text: str) -> Any:
    match kind:
        case "str":
            if not is_plain(text, but="\n\t"):
                raise ValueError(f"{truncate(text)} has a character that no text here needs")
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
                raise ValueError(f"{text[:30]} is not a finite number")
            return value
    raise ValueError(f"tags such as {truncate(kind)} are not allowed")


def _whole_number(text: str) -> int:
    if len(text) > 30:  # Python itself refuses to read integers of thousands of digits
        raise ValueError(f"{text[:12]}… is too large a number")
    base = {"0x": 16, "0o": 8}.get(text[:2], 10)
    return int(text, base)


def read_text(path: Path) -> str:
    """Read a file of UTF-8 text that is not too large.

    Raises:
        OSError: It cannot be read.
        YamlError: It is too large, or no UTF-8 text.
    """
    with path.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise YamlError(1, f"larger than {MAX_BYTES // 1024} KiB: this is no file for this tool")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlError(line, f"byte 0x{data[error.start]:02x} is not UTF-8 text") from None
