"""Files are locked and processes signalled as POSIX defines it; Windows does neither."""

import sys


def require_posix() -> None:
    """Exit with one line on Windows, before anything is imported that needs POSIX."""
    if sys.platform == "win32":
        print(
            "Error: Windows is not supported. Use Linux, macOS or WSL 2 (Linux inside Windows).",
            file=sys.stderr,
        )
        sys.exit(2)
