"""A space file as a document that knows the line of every value and collects complaints."""

from pathlib import Path
from typing import Any

from okddip_search.errors import UserError
from trainer.io.text import truncate
from trainer.io.yaml import MAX_DEPTH, KeyPath, YamlError, parse_yaml, read_text

MOST_COMPLAINTS = 20
"""Nobody reads more at once."""
LONGEST_COMPLAINT = 600
"""Characters; a whole file may have become one value."""


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
            parsed = parse_yaml(read_text(path))
        except OSError as error:
            raise UserError(f"{self.name}: {error.strerror or error}") from None
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
        if len(path) > MAX_DEPTH:
            raise UserError(f"{label}: nested more than {MAX_DEPTH} levels deep")
        target = self.values
        for part in path[:-1]:
            inner = target.get(str(part))
            if inner is None:
                inner = target[str(part)] = {}
            if not isinstance(inner, dict):
                raise UserError(
                    f"{label}: '{truncate(str(part))}' is not a mapping: set it as a whole"
                )
            target = inner
        target[str(path[-1])] = value
        self._overrides.append((path, label))

    def rename(self, section: str, old: str, new: str) -> str:
        """Give a field its new name where it has the old one; return its place, or nothing."""
        fields = self.values.get(section)
        if not isinstance(fields, dict) or old not in fields or new in fields:
            return ""
        fields[new] = fields.pop(old)
        self._lines[section, new] = self._lines[section, old]
        return self.place((section, new))

    def place(self, path: KeyPath) -> str:
        """Return where a value was written: an option, or file and line."""
        return self._override_of(path) or f"{self.name}:{self._line_of(path)}"

    def complain(self, path: KeyPath, text: str) -> None:
        """Note that the value at a path is wrong."""
        text = truncate(text, LONGEST_COMPLAINT)
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
            more = len(ranked) - MOST_COMPLAINTS
            tail = [f"… and {more} more"] if more > 0 else []
            raise UserError("\n".join(ranked[:MOST_COMPLAINTS] + tail))

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
