"""Real searches, watched from outside: where they listen, whom they ask, what they leave behind."""

import base64
import contextlib
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from search_helpers import COMMAND, run, wait_until, write_space
from test_report_page import UNDRAWN, browser  # noqa: F401
from test_ui import descendants
from tracking_helpers import free_port, open_tracker, save_tiny_leader, wait_for

from okddip_search.report.page import write_report
from okddip_search.study.sessions import Session, SessionLog

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from report_helpers import REASON, make_confirm, make_search, write_confirm  # noqa: E402
from security_helpers import MARKUP, PLANTED, SCRIPT, plant  # noqa: E402

SECRET = "hunter2-of-the-server"
SHORT = ("--trials", 2, "--set", "trainer.epochs=4", "--set", "study.pruner=none")
LISTENING = "0A"  # the state in /proc/net/tcp

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's /proc")


def listeners(pids):
    """Return the (address, process name) of every TCP socket that these processes listen on."""
    inodes = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            for file in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = os.readlink(file)
                    if target.startswith("socket:["):
                        inodes[target[8:-1]] = name
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            (
                _,
                local,
                _,
                state,
                *_,
            ) = line.split()[:4]
            inode = line.split()[9]
            if state == LISTENING and inode in inodes:
                found.add((address_of(local), inodes[inode]))
    return found


def address_of(hexadecimal):
    """Turn /proc's words in the host's byte order into an address."""
    words = bytes.fromhex(hexadecimal.partition(":")[0])
    octets = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
    if len(octets) == 4:
        return socket.inet_ntop(socket.AF_INET, octets)
    return socket.inet_ntop(socket.AF_INET6, octets).removeprefix("::ffff:")


def test_listeners_are_seen():
    with socket.create_server(("0.0.0.0", 0)), socket.create_server(("127.0.0.1", 0)):
        with socket.create_server(("::", 0), family=socket.AF_INET6):
            assert {a for a, _ in listeners([os.getpid()])} == {"0.0.0.0", "127.0.0.1", "::"}


class Indiscreet(http.server.BaseHTTPRequestHandler):
    """Refuses everybody, and quotes the password in its answer."""

    def do_GET(self):
        login = self.headers.get("Authorization", "Basic ").partition(" ")[2]
        self.server.logins.add(login)
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b"refused: " + base64.b64decode(login) + login.encode())

    do_POST = do_GET

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def indiscreet_server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Indiscreet) as server:
        server.logins = set()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class Watched:
    """A search of two trials, started with umask 000 and a secret, and what was seen of it."""

    def __init__(self, folder):
        self.home, self.search = folder / "home", folder / "search"
        self.home.mkdir()
        self.listened, self.modes, self.answers = set(), {}, {}
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH_TOKEN")}
        with indiscreet_server() as server:
            uri = f"http://me:{SECRET}@127.0.0.1:{server.server_port}"
            process = subprocess.Popen(
                [COMMAND, "--space", write_space(folder), "--out", self.search,
                 "--tracking-uri", uri, *map(str, SHORT)],
                cwd=folder, env={**environment, "HOME": str(self.home)},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, umask=0,
            )  # fmt: skip
            try:
                self.watch(process)
                self.told, _ = process.communicate(timeout=300)
            finally:
                process.kill()
            self.code, self.logins = process.returncode, server.logins
        self.addresses_left = listeners(self.seen)

    def watch(self, process):
        self.seen = set()

        def trains():
            self.seen |= descendants(process.pid)
            self.listened |= listeners({*self.seen, process.pid})
            assert process.poll() is None, process.stdout.read()
            return (self.search / "trials" / "0").exists()

        wait_until(trains, timeout=240, step=0.3)
        raylet = next(words for words in map(command_of, self.seen) if "raylet/raylet" in words[0])
        options = dict(
            word.split("=", 1) for word in raylet if word.startswith("--") and "=" in word
        )
        self.ray_dir = Path(options["--temp_dir"])
        self.modes = {path: path.stat().st_mode & 0o777 for path in self.ray_dir.parents}
        environment = environment_of(next(p for p in self.seen if "raylet" in command_of(p)[0]))
        self.token = environment["RAY_AUTH_TOKEN"]
        for name, token in (("right", self.token), ("wrong", "f" * 64), ("none", "")):
            self.answers[name] = ask_ray(options["--gcs-address"], token)


def command_of(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return [""]


def environment_of(pid):
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


ASK = """
import sys
from ray._raylet import GcsClient
print(len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=20)))
"""


def ask_ray(address, token):
    """Ask Ray for its nodes, as any process that reaches its port could."""
    environment = {**os.environ, "RAY_AUTH_MODE": "token" if token else "disabled"}
    environment |= {"RAY_AUTH_TOKEN": token} if token else {}
    done = subprocess.run(
        [sys.executable, "-c", ASK, address], env=environment, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    return done.stdout.strip() or done.stderr


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    return Watched(tmp_path_factory.mktemp("watched"))


def test_a_search_listens_on_this_machine_alone(watched):
    assert {"raylet", "gcs_server", "okddip-search"} <= {name for _, name in watched.listened}
    assert {address for address, _ in watched.listened} == {"127.0.0.1"}
    assert watched.addresses_left == set()


def test_ray_answers_who_has_its_token_alone(watched):
    assert watched.answers["right"] == "1"
    for name in ("wrong", "none"):
        assert "nauthenticated" in watched.answers[name] or "Auth" in watched.answers[name]


def test_rays_folder_is_ours_alone_and_gone_afterwards(watched):
    assert watched.modes[watched.ray_dir.parent] == 0o700
    assert not watched.ray_dir.parent.exists()


def test_a_search_leaves_nothing_in_the_home_directory(watched):
    assert [path for path in watched.home.rglob("*") if path.is_file()] == []


def test_a_secret_in_the_tracking_uri_is_nowhere_on_disk(watched):
    assert watched.code == 0 and "MLflow does not have everything yet" in watched.told
    login = base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert watched.logins == {login}  # the server did get it
    for word in (SECRET, login, watched.token):
        assert word not in watched.told
        for path in (*watched.search.rglob("*"), *watched.home.rglob("*")):
            assert not path.is_file() or word.encode() not in path.read_bytes(), path
    assert "***" in (watched.search / "search.log").read_text()
    assert "//***@" in (watched.search / "sessions.jsonl").read_text()
    assert "//***@" in (watched.search / "report.json").read_text()


def test_the_secret_is_asked_for_again_and_never_guessed(watched):
    done = run("sync", watched.search, cwd=watched.home)
    assert done.returncode == 2 and "is not kept in the search directory" in done.stderr


def test_no_file_of_a_search_is_for_others_to_write(watched):
    paths = [watched.search, *watched.search.rglob("*")]
    assert {"lock", "study.journal", "sessions.jsonl", "search.log", "state.json"} <= {
        path.name for path in paths
    }
    assert [p for p in paths if not p.is_symlink() and p.stat().st_mode & 0o002] == []
    done = run("sync", watched.search, "--tracking-uri", "local", cwd=watched.home, umask=0)
    assert done.returncode == 0, done.stderr
    for path in (watched.search / "mlflow.db", *(watched.search / "mlartifacts").rglob("*")):
        assert not path.stat().st_mode & 0o002, path


# Telemetry

ALONE = """
ip link set lo up && mount --bind "$1" /etc/resolv.conf || exit 77
shift
"$@" >&2
code=$?
cat /proc/net/snmp /proc/net/snmp6
exit $code
"""


def without_a_route(folder, *command, timeout=400):
    """Run a command where only the loopback is; count what was to go elsewhere.

    The kernel counts every packet and every connection, of any process, for which there is no way.
    Names are asked for at an address that is elsewhere, too.

    Returns:
        The finished process, and the count.
    """
    if not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("unshare and ip are not installed")
    (folder / "resolv.conf").write_text("nameserver 192.0.2.53\noptions timeout:1 attempts:1\n")
    done = subprocess.run(
        ["unshare", "--map-root-user", "--net", "--mount", "sh", "-c", ALONE, "sh",
         folder / "resolv.conf", *map(str, command)],
        cwd=folder, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    if done.returncode == 77 or "unshare" in done.stderr.partition("\n")[0]:
        pytest.skip(f"no network namespace here: {done.stderr.strip()}")
    names, values = (line.split() for line in done.stdout.splitlines() if line.startswith("Ip: "))
    ip6 = dict(line.split() for line in done.stdout.splitlines() if line.startswith("Ip6"))
    lost = int(values[names.index("OutNoRoutes")]) + int(ip6["Ip6OutNoRoutes"])
    return done, lost


@pytest.mark.parametrize(
    "code",
    [
        "socket.create_connection(('192.0.2.1', 443))",
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
        "socket.create_connection(('2001:db8::1', 443))",
        "socket.getaddrinfo('telemetry.example.org', 443)",
    ],
)
def test_any_attempt_to_reach_out_is_seen(tmp_path, code):
    done, lost = without_a_route(tmp_path, sys.executable, "-c", f"import socket; {code}")
    assert done.returncode != 0 and lost > 0


def test_a_search_asks_nobody_outside_this_machine(tmp_path):
    done, lost = without_a_route(
        tmp_path, COMMAND, "--space", write_space(tmp_path), "--out", "out", *SHORT
    )
    assert done.returncode == 0, done.stderr
    assert "2 complete" in done.stderr
    assert lost == 0
    done, lost = without_a_route(tmp_path, sys.executable, "-c", SERVE, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert lost == 0


SERVE = """
import os, signal, sys, threading, urllib.request
from pathlib import Path
from okddip_search.tracking.ui import serve_ui
def stop_when_told(line):
    if line.startswith("Ctrl-C"):
        urllib.request.urlopen("http://127.0.0.1:5000/").read()
        os.kill(os.getpid(), signal.SIGINT)
sys.exit(serve_ui(Path(sys.argv[1]), port=5000, echo=stop_when_told))
"""


# MLflow


@pytest.fixture
def planted_store(tmp_path):
    """A search's store whose model somebody has replaced by a pickle."""
    search_dir = tmp_path / "search"
    search_dir.mkdir()
    (search_dir / "spec.yaml").write_text("name: demo\n")
    save_tiny_leader(search_dir / "leader")
    tracker = open_tracker(search_dir)
    tracker.search_started({}, {})
    tracker.search_ended("FINISHED")
    assert tracker.close(120)
    (model,) = (search_dir / "mlartifacts").rglob("model.pt2")
    witness = tmp_path / "executed"
    plant(model, witness)
    plant(model.with_name("model.pth"), witness)
    plant(model.with_name("python_model.pkl"), witness)
    yield search_dir
    assert not witness.exists(), "a planted pickle has run"


def test_a_pickle_as_model_in_the_store_is_never_read(planted_store):
    tracker = open_tracker(planted_store)
    tracker.search_started({}, {})
    shutil.copytree(planted_store / "leader", planted_store / "confirm/leader")  # known already
    tracker.confirmed({}, "within noise")
    tracker.search_ended("FINISHED")
    assert tracker.close(120)


def test_the_ui_listens_on_this_machine_alone_and_runs_no_jobs(planted_store):
    port = free_port()
    with subprocess.Popen(
        [COMMAND, "ui", planted_store, "--port", str(port)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert f"http://127.0.0.1:{port}" in process.stdout.readline()
            servers = descendants(process.pid)
            assert {address for address, _ in listeners(servers)} == {"127.0.0.1"}
            for pid in servers:
                assert environment_of(pid)["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
                assert environment_of(pid)["MLFLOW_DISABLE_TELEMETRY"] == "true"
                assert "huey" not in " ".join(command_of(pid))
            with pytest.raises(urllib.error.HTTPError) as refused:
                job = json.dumps({"job_name": "any", "params": {}}).encode()
                headers = {"Content-Type": "application/json"}
                url = f"http://127.0.0.1:{port}/ajax-api/3.0/jobs/"
                urllib.request.urlopen(urllib.request.Request(url, job, headers))
            assert refused.value.code >= 400
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in servers))
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


# The report


@pytest.mark.parametrize("is_escaped", [True, False], ids=["as written", "were escaping to fail"])
def test_a_browser_shows_strangers_words_and_runs_none(browser, tmp_path, is_escaped):  # noqa: F811
    search_dir = make_search(tmp_path / "tiny")
    confirm = make_confirm(search_dir)
    confirm["command"] = confirm["verdict"]["sentence"] = PLANTED
    for one in confirm["contenders"][2:]:
        one["note"] = PLANTED
        one["runs"][4] |= {"state": "failed", "reason": PLANTED}
    confirm["contenders"][2]["label"] = confirm["comparisons"][1]["rival"] = PLANTED
    write_confirm(search_dir, confirm)
    journal = search_dir / "study.journal"
    journal.write_text(journal.read_text().replace(REASON, json.dumps(PLANTED)[1:-1]))
    tags = {"okddip.command": PLANTED, "okddip.host": PLANTED, "okddip.slots": PLANTED}
    SessionLog(search_dir).begin(Session("s1", "demo", PLANTED, tags=tags))
    html = write_report(search_dir).read_text()
    if not is_escaped:
        html = html.replace("<footer>", f"<footer>{SCRIPT}<svg onload='window.pwned = 3'></svg>")
    (tmp_path / "report.html").write_text(html)
    page = browser.new_page()
    page.set_default_timeout(240_000)  # 5 MB of script, on a machine that may be busy
    asked, dialogs = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_function(f"() => ({UNDRAWN})().length === 0")
    assert page.evaluate("window.pwned") is None and not dialogs
    text = page.inner_text("body")
    assert MARKUP in text and SCRIPT in text and "\\x1b]0;owned" in text
    outside = [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    assert outside == []
    assert page.locator("figure img").count() == 0
    page.close()
