"""Next steps that work where the user sits: at a desktop, over SSH, in an editor's terminal."""

import os
import shlex
import shutil
import sys
from pathlib import Path

EDITORS = ("vscode",)
"""Terminals (TERM_PROGRAM) in which an address can be clicked, on a remote machine as well."""
NOTEBOOKS = ("JPY_PARENT_PID", "COLAB_RELEASE_TAG")
"""Variables that Jupyter and Colab set for what they start."""


def to_see(page: Path) -> str:
    """Return a command or an address that shows an HTML page to the user."""
    if os.environ.get("TERM_PROGRAM") in EDITORS or any(map(os.environ.get, NOTEBOOKS)):
        return page.absolute().as_uri()
    if here := _ssh():
        options, place = here
        port = f"-P {options} " if options else ""
        copy = f"scp {port}{place}:{shlex.quote(str(page.absolute()))} ."
        return f"on your own machine:  {copy}"
    if opener := _opener():
        return f"{opener} {shlex.quote(str(page))}"
    return page.absolute().as_uri()


def to_reach(port: int) -> str:
    """Return the command that brings a port of this machine to the user's own; empty: no need."""
    if not (here := _ssh()):
        return ""
    options, place = here
    return f"ssh {f'-p {options} ' if options else ''}-N -L {port}:127.0.0.1:{port} {place}"


def _ssh() -> tuple[str, str] | None:
    """Return the port (empty: the usual one) and user@host by which the user came, if by SSH."""
    parts = os.environ.get("SSH_CONNECTION", "").split()
    if len(parts) != 4:
        return None
    _, _, address, port = parts
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or "USER"
    return "" if port == "22" else port, f"{user}@{address}"


def _opener() -> str:
    """Return the desktop's command that opens a file; empty where there is no desktop."""
    if sys.platform == "darwin":
        return "open"
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return ""
    return next((command for command in ("xdg-open", "open") if shutil.which(command)), "")
