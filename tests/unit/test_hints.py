"""A hint names a command that exists where the user is, and quotes what a shell would divide."""

import shlex
from pathlib import Path

import pytest

from okddip_search.hints import to_reach, to_see

PAGE = Path("my runs/digits/report.html")
SSH = "203.0.113.9 51234 192.0.2.7 22"


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """A place without a desktop, and a PATH that a test fills."""
    for name in (
        "SSH_CONNECTION", "TERM_PROGRAM", "DISPLAY", "WAYLAND_DISPLAY", "JPY_PARENT_PID",
        "COLAB_RELEASE_TAG",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("USER", "ada")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")


def test_over_ssh_the_page_is_copied_and_the_port_brought_over(monkeypatch):
    monkeypatch.setenv("SSH_CONNECTION", SSH)
    monkeypatch.setenv("DISPLAY", "localhost:10.0")
    copy = f"scp ada@192.0.2.7:{shlex.quote(str(PAGE.absolute()))} ."
    assert to_see(PAGE) == f"on your own machine:  {copy}"
    assert to_reach(5000) == "ssh -N -L 5000:127.0.0.1:5000 ada@192.0.2.7"


def test_another_port_of_the_server_is_kept(monkeypatch):
    monkeypatch.setenv("SSH_CONNECTION", SSH.replace(" 22", " 2222"))
    assert to_see(PAGE).startswith("on your own machine:  scp -P 2222 ada@192.0.2.7:")
    assert to_reach(6000) == "ssh -p 2222 -N -L 6000:127.0.0.1:6000 ada@192.0.2.7"


@pytest.mark.parametrize("display", ["DISPLAY", "WAYLAND_DISPLAY"])
@pytest.mark.parametrize("command", ["xdg-open", "open"])
def test_a_desktop_has_whichever_command_exists(monkeypatch, tmp_path, display, command):
    monkeypatch.setenv(display, "0")
    assert to_see(PAGE).startswith("file://")  # neither does
    (tmp_path / command).touch(mode=0o755)
    assert shlex.split(to_see(PAGE)) == [command, str(PAGE)]
    assert to_reach(5000) == ""


def test_macos_always_has_open(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert shlex.split(to_see(PAGE)) == ["open", str(PAGE)]


@pytest.mark.parametrize(("name", "value"), [("TERM_PROGRAM", "vscode"), ("JPY_PARENT_PID", "17")])
def test_an_editor_or_a_notebook_has_an_address_to_click(monkeypatch, name, value):
    monkeypatch.setenv("SSH_CONNECTION", SSH)
    monkeypatch.setenv(name, value)
    assert to_see(PAGE) == PAGE.absolute().as_uri()
    assert "my%20runs" in to_see(PAGE)


def test_without_a_desktop_there_is_the_address(tmp_path):
    (tmp_path / "xdg-open").touch(mode=0o755)
    assert to_see(PAGE) == PAGE.absolute().as_uri()
