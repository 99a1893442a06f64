"""`make matrix`: install, test and run a small search on every supported Python available here.

Each version works in a copy of this tree below build/matrix, next to its log. Interpreters come
from the PATH, pyenv or uv's downloads. Where none of them has a version, root gets the one of
Debian's testing release with debootstrap and runs it in a chroot. Prints a table; exits 1 if a step
failed.
"""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
TREE = Path(__file__).parents[1]
BUILD = TREE / "build" / "matrix"
DEBIAN = BUILD / "debian"
STEPS = {
    "install": "make install PYTHON={python}",
    "fast tests": "make unit",
    "small search": "make small-search",
}
IN_DEBIAN = """
for folder in proc sys dev; do mount --rbind /$folder $0/$folder; done
mkdir -p $0/tree
mount --bind "$PWD" $0/tree
exec chroot $0 env --chdir=/tree UV_CACHE_DIR=/tree/.cache/uv "$@"
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python, and the command prefix that enters the system it lives in."""

    python: str
    origin: str
    prefix: tuple[str | Path, ...] = ()


def main() -> int:
    """Run all steps for the versions on the command line, by default for all supported ones."""
    rows = {version: check(version) for version in sys.argv[1:] or VERSIONS}
    print(f"| Python | from | {' | '.join(STEPS)} |\n|{'---|' * (2 + len(STEPS))}")
    for version, row in rows.items():
        print(f"| {version} | {' | '.join(row)} |")
    return any("failed" in cell for row in rows.values() for cell in row)


def check(version: str) -> list[str]:
    """Run all steps for a version and return the cells of its row."""
    found = here(version) or by_uv(version) or by_debian(version)
    if found is None:
        return ["missing here", *("–" for _ in STEPS)]
    place = BUILD / version
    copy_tree(place)
    with open(BUILD / f"{version}.log", "w") as log:
        return [found.origin, *(run(step, found, place, log) for step in STEPS)]


def here(version: str) -> Interpreter | None:
    """Find a Python on the PATH or among pyenv's."""
    pyenv = Path.home().glob(f".pyenv/versions/{version}.*/bin/python")
    for python in filter(None, [shutil.which(f"python{version}"), *map(str, pyenv)]):
        code = "import ensurepip, platform; print(platform.python_version())"
        full = output(python, "-c", code)
        if full and full.startswith(version + "."):
            return Interpreter(python, full)
    return None


def by_uv(version: str) -> Interpreter | None:
    """Let uv download a Python."""
    output("uv", "python", "install", version)
    python = output("uv", "python", "find", "--managed-python", version)
    return Interpreter(python, f"{version}, uv's") if python else None


def by_debian(version: str) -> Interpreter | None:
    """Unpack Debian's testing release and use its Python if it is this version."""
    if os.getuid() or not shutil.which("debootstrap"):
        return None
    if not (DEBIAN / "unpacked").exists():
        packages = "python3-venv,make,git,procps,ca-certificates"
        output("debootstrap", "--variant=minbase", f"--include={packages}", "testing", DEBIAN)
        for file in ("etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt"):
            shutil.copy(Path("/", file), DEBIAN / file)  # same network, same certificates
        (DEBIAN / "unpacked").touch()
    python = f"/usr/bin/python{version}"
    prefix = ("unshare", "--mount", "bash", "-ec", IN_DEBIAN, DEBIAN)
    if not (DEBIAN / python[1:]).exists():
        return None
    return Interpreter(python, "Debian testing's", prefix)


def output(*command: str | Path) -> str | None:
    """Return what a command prints, or None if it fails or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def copy_tree(place: Path) -> None:
    """Copy tracked and new files; an environment installed there earlier stays."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=TREE, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        if (TREE / name).exists():
            shutil.copy2(TREE / name, place / name)


def run(step: str, found: Interpreter, place: Path, log) -> str:
    """Run a step and return how long it took, or that it failed."""
    print(f"{place.name}: {step}", file=sys.stderr)
    command = [*found.prefix, *STEPS[step].format(python=found.python).split()]
    began = time.monotonic()
    done = subprocess.run(command, cwd=place, stdout=log, stderr=log)
    return "**failed**" if done.returncode else f"{time.monotonic() - began:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
