"""A cluster that does not answer is named soon and given up; a stop signal is heard meanwhile."""

import socket
import threading

import pytest

from okddip_search.cluster import ray_cluster
from okddip_search.cluster.ray_cluster import _wait_for_answer
from okddip_search.cluster.signals import Stopped, StopSwitch
from okddip_search.errors import UserError


@pytest.fixture
def quick(monkeypatch):
    for name, seconds in (
        ("ANSWER_EVERY_S", 0.05),
        ("SAID_AFTER_S", 0.1),
        ("GIVEN_UP_AFTER_S", 0.5),
    ):
        monkeypatch.setattr(ray_cluster, name, seconds)


@pytest.fixture
def closed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"127.0.0.1:{port}"


def test_nobody_is_waited_for_with_a_word_and_not_for_ever(quick, closed):
    said = []
    with pytest.raises(UserError, match=f"--address {closed}: nobody answers"):
        _wait_for_answer(closed, StopSwitch(said.append, ""))
    [line] = said
    assert line.startswith(f"nobody answers at {closed} (")
    assert ray_cluster.SAID_AFTER_S < 10


def test_a_cluster_that_comes_up_meanwhile_is_joined(quick, closed):
    port = int(closed.rpartition(":")[2])
    servers = []
    late = threading.Timer(0.2, lambda: servers.append(socket.create_server(("127.0.0.1", port))))
    late.start()
    _wait_for_answer(closed, StopSwitch(print, ""))
    servers[0].close()


def test_a_signal_ends_the_waiting(quick, closed):
    switch = StopSwitch(print, "")
    switch.is_thrown = True
    with pytest.raises(Stopped):
        _wait_for_answer(closed, switch)


@pytest.mark.parametrize("address", ["auto", "ray://nowhere:1"])
def test_an_address_that_ray_looks_up_is_left_to_it(address):
    _wait_for_answer(address, StopSwitch(print, ""))
