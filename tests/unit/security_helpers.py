"""What a stranger might plant, and how a test sees whether it acted."""

import os
import pickle
from pathlib import Path

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj.exe\u2066"
"""Sets a window's title, clears the screen, C1's colour, and two that turn text around."""
MARKUP = "[bold]loud[/bold] [link=file:///etc/passwd]here[/link] :bomb: {{ 7 * 7 }}"
SCRIPT = "</script><script>window.pwned = 1</script>\"><img src=x onerror='window.pwned = 2'>"
PLANTED = ESCAPES + MARKUP + SCRIPT


class Malicious:
    """Makes a directory when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


def plant(path: Path, witness: Path) -> bytes:
    """Write a live pickle to a file, which makes the directory ``witness`` when it is read."""
    content = pickle.dumps(Malicious(witness))
    pickle.loads(content)
    assert witness.is_dir()  # the plant is a live one
    witness.rmdir()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return content


def acting_characters(text: str) -> set[str]:
    """Return what a terminal would obey, or what would turn text around."""
    return {c for c in text if not c.isprintable() and c not in "\n\t"}
