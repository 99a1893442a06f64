"""Nobody gets in: by a pickle, a YAML tag, an archive, a name, a log line or a loose file mode."""

import ast
import functools
import hashlib
import http.server
import io
import json
import logging
import os
import re
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from security_helpers import ESCAPES, MARKUP, PLANTED, acting_characters, plant
from test_sources import cifar_root
from torchvision import datasets

from okddip_search.confirm.plan import Plan
from okddip_search.errors import UserError
from okddip_search.export import export
from okddip_search.masking import MaskedFormatter, masked
from okddip_search.space.load import load_space
from okddip_search.study.events import TrialEnd
from trainer.config.data import DataConfig
from trainer.config.load import load_config
from trainer.config.strict import ConfigError
from trainer.config.train import TrainConfig
from trainer.data.images import DataError
from trainer.data.load import load_development_data
from trainer.data.parts import read_part
from trainer.engine.checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from trainer.engine.run import TrainingRun
from trainer.group.group import single_network
from trainer.io.text import visible
from trainer.leader.leader import LeaderInfo, save_leader
from trainer.methods.kd import Teacher
from trainer.models import build_architecture

ROOT = Path(__file__).parents[2]


@pytest.fixture
def witness(tmp_path):
    """A directory that must never come to be."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists(), "a planted pickle has run"


class TestPickle:
    def test_no_code_of_ours_unpickles_or_evaluates(self):
        found = []
        for package in ("okddip_search", "trainer"):
            for path in sorted((ROOT / package).rglob("*.py")):
                name = path.relative_to(ROOT).as_posix()
                found += [f"{name}: {what}" for what in unsafe_calls(path.read_text())]
        # CIFAR's own files are pickles: read by an unpickler that knows arrays and nothing else.
        # The model archive is one that this process has just written in a folder of its own.
        assert found == [
            "okddip_search/tracking/model.py: torch.export.load",
            "trainer/data/sources/cifar.py: pickle.Unpickler",
        ]

    @pytest.mark.parametrize(
        "code",
        [
            "pickle.load(f)", "import pickle as p\np.loads(b)", "from pickle import loads",
            "torch.load(f)", "np.load(f, allow_pickle=True)", "yaml.load(f, Loader)", "eval('1')",
            "exec(s)", "import cloudpickle", "import dill, os", "joblib.load(f)", "os.system('x')",
            "subprocess.run(s, shell=True)", "pd.read_pickle(f)", "marshal.loads(b)",
            "yaml.unsafe_load(f)", "tar.extractall(d)", "mlflow.pytorch.load_model(uri)",
        ],
    )  # fmt: skip
    def test_the_search_for_such_code_finds_it(self, code):
        assert unsafe_calls(code)
        assert not unsafe_calls(code.replace("True", "False")) or "=True" not in code

    @pytest.mark.parametrize("which", ["state-000001.safetensors", "state.json"])
    def test_a_pickle_as_checkpoint_is_refused_unread(self, tmp_path, witness, which):
        save_checkpoint(tmp_path, Checkpoint({"w": torch.zeros(3)}, {"history": [1]}))
        planted = plant(tmp_path / which, witness)
        if which != "state.json":  # with its right size, as a careful stranger would
            state = json.loads((tmp_path / "state.json").read_text())
            (tmp_path / "state.json").write_text(
                json.dumps({**state, "tensor_bytes": len(planted)})
            )
        with pytest.raises(DamagedCheckpointError, match="cannot be read|damaged"):
            load_checkpoint(tmp_path)

    def test_a_run_with_a_pickle_as_checkpoint_starts_over(self, tmp_path, witness, caplog):
        data = load_development_data(DataConfig(name="digits", train_limit=40, validation=40))
        config = TrainConfig(model="resnet8", width=0.25, epochs=1, num_threads=1, device="cpu")
        plant(tmp_path / "state.json", witness)
        with TrainingRun(config, data, tmp_path) as run:
            assert run.trainer.epoch == 0
        assert "the run starts over" in caplog.text

    @pytest.mark.parametrize("which", ["leader.safetensors", "leader.json"])
    def test_a_pickle_as_teacher_or_winner_is_refused_unread(self, tmp_path, witness, which):
        search = tmp_path / "search"
        info = LeaderInfo("resnet8", 0.25, list("0123456789"), [1, 8, 8], [0.0], [1.0], 0.9, {})
        network = single_network(
            build_architecture("resnet8", channels=1, num_classes=10, width=0.25)
        )
        save_leader(search / "leader", network, info)
        plant(search / "leader" / which, witness)
        data = load_development_data(DataConfig(name="digits", train_limit=40, validation=40))
        with pytest.raises(ConfigError, match=f"{which} is damaged"):
            Teacher(search / "leader", data)
        (search / "best.yaml").write_text("lr: 0.1\n")
        with pytest.raises(UserError, match=f"{which} is damaged"):
            export(search, "pt2", tmp_path / "leader.pt2")

    def test_a_pickle_as_cached_images_is_made_anew(self, tmp_path, witness):
        for part in ("train", "test"):
            for name in "ab":
                (tmp_path / "images" / part / name).mkdir(parents=True)
                for i in range(4):
                    grey = np.full((8, 8), 60 * i, dtype=np.uint8)
                    Image.fromarray(grey).save(tmp_path / "images" / part / name / f"{i}.png")
        config = DataConfig(name="image_folder", root=str(tmp_path / "images"), image_size=8)
        first = read_part(config, "train", tmp_path / "cache")
        (cache,) = (tmp_path / "cache").iterdir()
        plant(cache, witness)
        again = read_part(config, "train", tmp_path / "cache")
        assert torch.equal(first.images_NCHW, again.images_NCHW)

    def test_a_pickle_as_an_image_is_refused_unread(self, tmp_path, witness):
        for name in "ab":
            plant(tmp_path / "train" / name / "x.png", witness)
        config = DataConfig(name="image_folder", root=str(tmp_path), image_size=8, test=0)
        with pytest.raises(DataError, match="2 of 2 images cannot be decoded"):
            read_part(config, "train")

    def test_what_tune_would_unpickle_is_never_a_strangers(self, tmp_path, witness):
        from ray.tune.utils.serialization import _loads_with_cloudpickle

        from okddip_search.cluster.ray_cluster import new_scratch

        elsewhere = tmp_path / "elsewhere"
        (tmp_path / "search" / ".tune" / "tune").mkdir(parents=True)
        planted = plant(tmp_path / "pickled", witness)
        state = json.dumps({"_type": "CLOUDPICKLE_FALLBACK", "value": planted.hex()})
        name = "experiment_state-2999-01-01_00-00-00.json"
        (tmp_path / "search" / ".tune" / "tune" / name).write_text(state)
        elsewhere.mkdir()
        (elsewhere / name).write_text(state)
        (tmp_path / "search" / ".tune-x").symlink_to(elsewhere)
        _loads_with_cloudpickle(state.encode())
        witness.rmdir()  # Tune would have run it
        scratch = new_scratch(tmp_path / "search", shared=True)
        assert list(scratch.iterdir()) == []
        assert scratch.stat().st_mode & 0o777 == 0o700 and not scratch.is_symlink()
        assert not (tmp_path / "search" / ".tune").exists()
        assert (elsewhere / name).exists()  # a link is not followed


UNSAFE_CALLS = re.compile(
    r"(?:.*\.)?(?:load_model|read_pickle|unsafe_load|full_load|extractall|unpack_archive)"
    r"|(?:yaml|torch|pickle|marshal|shelve|joblib|dill|cloudpickle)\.(?:load|loads|load_all|open)"
    r"|pickle\.Unpickler|torch\.(?:export|jit)\.load|eval|exec|compile|__import__|os\.(?:system|popen)"
)
UNSAFE_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "shelve"}


def unsafe_calls(code: str) -> list[str]:
    """Return what in Python code could run what a file says."""
    tree = ast.parse(code)
    names, found = {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
            found += [alias.name for alias in node.names if alias.name in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module in {*UNSAFE_MODULES, "pickle"}:
            found.append(node.module)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)):
            first, _, rest = ast.unparse(node).partition(".")
            name = ".".join(part for part in (names.get(first, first), rest) if part)
            if UNSAFE_CALLS.fullmatch(name):
                found.append(name)
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "shell"):
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                found.append(node.arg)
    return found


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir", "!!python/name:os.system"])
class TestYamlTags:
    def test_in_a_space_is_refused(self, tmp_path, witness, tag):
        path = tmp_path / "space.yaml"
        path.write_text(f"name: x\ndata: {tag} ['{witness}']\n")
        with pytest.raises(UserError, match=r"space\.yaml:2: "):
            load_space(path)

    def test_in_a_configuration_is_refused(self, tmp_path, witness, tag):
        path = tmp_path / "best.yaml"
        path.write_text(f"lr: {tag} ['{witness}']\n")
        with pytest.raises(ConfigError, match="tags such as .* are not allowed"):
            load_config(path)

    def test_in_a_plan_is_refused(self, tmp_path, witness, tag):
        path = tmp_path / "plan.yaml"
        path.write_text(f"format: {tag} ['{witness}']\n")
        with pytest.raises(UserError, match="plan"):
            Plan.load(tmp_path)


class TestArchives:
    """``data.download`` fetches an archive; its checksum is not all that is checked."""

    @pytest.fixture
    def cifar(self, tmp_path, monkeypatch):
        """Return a function that makes an archive the one that is downloaded, and reads it."""
        good = tmp_path / "good"
        cifar_root(good, monkeypatch)
        monkeypatch.setattr(datasets.CIFAR10, "test_list", [])
        served = functools.partial(QuietServer, directory=tmp_path / "mirror")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), served)
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def read(*changes):
            archive = tmp_path / "mirror" / "cifar.tar.gz"
            archive.parent.mkdir()
            with tarfile.open(archive, "w:gz") as tar:
                tar.add(good / "cifar-10-batches-py", "cifar-10-batches-py")
                for member, content in changes:
                    tar.addfile(member, content)
            digest = hashlib.md5(archive.read_bytes()).hexdigest()
            url = f"http://127.0.0.1:{server.server_port}/cifar.tar.gz"
            monkeypatch.setattr(datasets.CIFAR10, "url", url)
            monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", digest)
            root = tmp_path / "inside" / "root"
            config = DataConfig(name="cifar10", root=str(root), download=True)
            return read_part(config, "train"), root

        yield read
        server.shutdown()
        server.server_close()

    @staticmethod
    def member(name, kind=tarfile.REGTYPE, link=""):
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, 4 if kind == tarfile.REGTYPE else 0
        return info, io.BytesIO(b"evil")

    def test_a_good_archive_is_read(self, cifar):
        part, root = cifar()
        assert len(part) == 100 and len(list((root / "cifar-10-batches-py").iterdir())) == 6

    def test_nothing_leaves_its_directory(self, cifar, tmp_path):
        member = self.member
        cifar(
            member("../outside"), member("cifar-10-batches-py/../../../outside"),
            member(f"{tmp_path}/outside"), member("outside"),
            member("way", tarfile.SYMTYPE, str(tmp_path)), member("way/outside"),
            member("cifar-10-batches-py/hard", tarfile.LNKTYPE, "../../outside"),
            member("cifar-10-batches-py/null", tarfile.CHRTYPE),
            member("cifar-10-batches-py/pipe", tarfile.FIFOTYPE),
        )  # fmt: skip
        written = {path.name for path in (tmp_path / "inside").rglob("*")}
        names = {f"data_batch_{i}" for i in range(1, 6)} | {"batches.meta"}
        assert written == names | {"root", "cifar-10-batches-py", "cifar.tar.gz"}
        assert not list(tmp_path.rglob("outside"))

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
    def test_a_link_or_device_in_place_of_a_file_is_refused(self, cifar, kind):
        planted = self.member("cifar-10-batches-py/data_batch_2", kind, "/etc/passwd")
        with pytest.raises(DataError, match="data_batch_2 is no file"):
            cifar(planted)

    def test_a_file_that_is_a_link_already_is_replaced_not_followed(self, cifar, tmp_path):
        (tmp_path / "inside" / "root" / "cifar-10-batches-py").mkdir(parents=True)
        precious = tmp_path / "precious"
        precious.write_text("mine")
        link = tmp_path / "inside" / "root" / "cifar-10-batches-py" / "batches.meta"
        (tmp_path / "inside" / "root" / "cifar-10-batches-py" / "data_batch_1").write_text("")
        link.symlink_to(precious)
        cifar()
        assert precious.read_text() == "mine" and not link.is_symlink()

    def test_a_damaged_archive_is_told(self, cifar, monkeypatch, tmp_path):
        monkeypatch.setattr(tarfile, "open", damaged(tarfile.open))
        with pytest.raises(DataError, match="cannot unpack .*cifar.tar.gz"):
            cifar()


class QuietServer(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def damaged(original):
    """Cut the archive short before it is opened for reading."""

    def opener(name, mode="r", *arguments, **named):
        if mode == "r":
            Path(name).write_bytes(Path(name).read_bytes()[:300])
        return original(name, mode, *arguments, **named)

    return opener


class TestTerminal:
    def test_text_is_shown_and_not_obeyed(self):
        assert visible("Größe\t5 µm – ½\n") == "Größe\t5 µm – ½\n"
        assert visible("a\x1b[2Jb\x9bc\u202ed\r\x00\udcff") == (
            r"a\x1b[2Jb\x9bc\u202ed\r\x00\udcff"
        )
        assert acting_characters(ESCAPES) and not acting_characters(visible(ESCAPES))

    @pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "plain"])
    def test_the_running_search_shows_strangers_words_as_they_are(self, is_terminal):
        from okddip_search.driver.progress import SearchConsole
        from okddip_search.terminal import Terminal

        file = io.StringIO()
        terminal = Terminal(file=file, width=400, force_terminal=is_terminal, color_system=None)
        reports = {"epoch": 0, "leader_accuracy": 0.5, "ensemble_accuracy": 0.5, "images_per_s": 1}
        with SearchConsole(terminal, PLANTED, 3, 9, 0) as screen:
            screen.say(PLANTED)
            screen.trial_started(0, {"model": PLANTED}, False)
            screen.epoch_reported(0, 0, reports)
            screen._live.refresh()
            screen.trial_ended(TrialEnd(0, "failed", None, 0, PLANTED), None)
        told = file.getvalue()
        assert MARKUP in told and "\\x1b[2J\\x9b31m\\u202egpj.exe" in told
        rich_itself = re.sub(r"\x1b\[\??[0-9;]*[A-Za-z]|\r", "", told)
        assert not acting_characters(rich_itself)
        assert "\x1b[2J" not in told and "\x1b]" not in told

    def test_the_result_shows_strangers_words_as_they_are(self):
        from okddip_search.terminal import Terminal

        file = io.StringIO()
        Terminal(file=file, width=400).print(f"Given up: {PLANTED}", style="red")
        assert MARKUP in file.getvalue() and not acting_characters(file.getvalue())

    @pytest.mark.parametrize(
        "arguments", [["--space", PLANTED], ["--no-such" + ESCAPES], ["report", PLANTED]]
    )
    def test_a_mistake_is_told_without_obeying_it(self, tmp_path, arguments):
        code = "from okddip_search.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 2 and "\\x1b]0;owned" in done.stderr
        assert not acting_characters(done.stderr + done.stdout)
        assert "Traceback" not in done.stderr


class TestSecrets:
    @pytest.mark.parametrize(
        ("text", "hidden"),
        [
            ("http://h/?token=hunter22", "http://h/?token=***"),
            ("'http://h/?a=b&access_token=hunter22&c=d'", "'http://h/?a=b&access_token=***&c=d'"),
            ("postgresql://db/x?user=u&password=hunter22", "postgresql://db/x?user=u&password=***"),
            ("https://s/c?sv=1&sig=hunter22#x", "https://s/c?sv=1&sig=***#x"),
            ("mysql://u:hunter22@h/d?ssl_key=k", "mysql://***@h/d?ssl_key=k"),
            ("http://h/?design=3&author=me", "http://h/?design=3&author=me"),
            (
                "http://h/runs?viewStateShareKey=okddip-1",
                "http://h/runs?viewStateShareKey=okddip-1",
            ),
        ],
    )
    def test_in_an_address_are_masked(self, text, hidden):
        assert masked(text) == hidden

    def test_of_the_environment_are_masked_wherever_they_are_quoted(self, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter22")
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abcdef99")
        monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
        assert masked(f"401: hunter22, Bearer abcdef99, {'0' * 64}") == "401: ***, Bearer ***, ***"
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        assert masked("Basic bWU6aHVudGVyMjI=") == "Basic ***"
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a")
        assert masked("a word") == "a word"

    def test_are_masked_in_log_lines_and_tracebacks(self):
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(MaskedFormatter("%(message)s"))
        logger = logging.Logger("any")
        logger.addHandler(handler)
        try:
            raise ValueError("could not parse 'foo://me:hunter22@h'")
        except ValueError:
            logger.exception("cannot open %s", "http://h/?token=hunter22")
        assert "hunter22" not in stream.getvalue() and "ValueError" in stream.getvalue()


PROTECT = "from okddip_search.environment import protect_files; protect_files()"


class TestModes:
    def test_nothing_is_for_others_to_write_even_with_umask_000(self, tmp_path):
        code = f"import os; {PROTECT}; os.mkdir('d'); open('d/f', 'w').close()"
        subprocess.run(
            [sys.executable, "-c", f"import os; os.umask(0)\n{code}"], cwd=tmp_path, check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert (tmp_path / "d").stat().st_mode & 0o777 == 0o775
        assert (tmp_path / "d" / "f").stat().st_mode & 0o777 == 0o664

    def test_a_stricter_umask_stays(self, tmp_path):
        code = f"import os; os.umask(0o077); {PROTECT}; open('f', 'w').close()"
        subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


def test_safetensors_that_lie_about_their_size_cost_no_memory(tmp_path):
    save_file({"w": torch.zeros(3)}, tmp_path / "state-000001.safetensors")
    content = bytearray((tmp_path / "state-000001.safetensors").read_bytes())
    content[:8] = (2**60).to_bytes(8, "little")
    (tmp_path / "state-000001.safetensors").write_bytes(content)
    meta = {"format": 1, "tensors": "../state-000001.safetensors", "tensor_bytes": len(content)}
    (tmp_path / "state.json").write_text(json.dumps(meta))
    with pytest.raises(DamagedCheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path)
