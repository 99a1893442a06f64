"""What is used of Ray without being promised is still there; it was tested with Ray 2.60."""

import inspect

import ray
from ray._private import ray_constants, worker
from ray._private.node import Node
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.tune import tune as ray_tune
from ray.tune.execution import class_cache, tune_controller
from ray.tune.schedulers import TrialScheduler


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_the_actor_manager_hands_over_how_a_worker_died():
    assert parameters(RayActorManager._actor_task_failed)[:3] == [
        "self", "tracked_actor_task", "exception",
    ]  # fmt: skip
    assert "_live_actors_to_ray_actors_resources" in inspect.getsource(RayActorManager.__init__)


def test_the_controller_knows_the_actor_of_a_trial():
    source = inspect.getsource(tune_controller.TuneController.__init__)
    assert "self._trial_to_actor" in source and "self._actor_manager" in source


def test_the_node_knows_its_processes_and_folders():
    assert hasattr(worker, "_global_node")
    for name in ("get_temp_dir_path", "get_session_dir_path", "start_api_server"):
        assert hasattr(Node, name), name
    assert "self.all_processes" in inspect.getsource(Node.__init__)
    assert ray_constants.PROCESS_TYPE_RAYLET == "raylet"


def test_ray_listens_on_loopback_where_it_takes_itself_for_no_cluster():
    assert isinstance(ray_constants.ENABLE_RAY_CLUSTER, bool)
    assert "ENABLE_RAY_CLUSTER" in inspect.getsource(ray._private.services)


def test_commands_for_the_raylet_are_joined_by_subprocess():
    assert "subprocess.list2cmdline(" in inspect.getsource(ray._private.services.start_raylet)


def test_rays_files_can_be_put_elsewhere():
    assert 'kwargs.pop("_temp_dir"' in inspect.getsource(ray.init)


def test_tune_handles_signals_in_one_function_and_looks_at_an_event():
    source = inspect.getsource(ray_tune.run)
    assert (
        "_setup_signal_catching()" in source and "experiment_interrupted_event.is_set()" in source
    )


def test_results_are_not_buffered_where_a_scheduler_says_so():
    assert hasattr(TrialScheduler, "_supports_buffered_results")


def test_tunes_actors_have_a_runtime_environment():
    """Without one, Ray would not start them through a shell, and Python's path need no quotes."""
    assert "runtime_env" in inspect.getsource(class_cache)
