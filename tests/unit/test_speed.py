"""What is left to the machine is timed once a search, and chosen only where it is worth it."""

import pytest
from ray.exceptions import WorkerCrashedError

from okddip_search.cluster.resources import Node, allocate
from okddip_search.cluster.signals import StopSwitch
from okddip_search.driver import prepare
from okddip_search.driver.autotune import (
    Candidate,
    Speed,
    fastest,
    find_pace,
    find_speed,
    keep_pace,
    left_to_timing,
    load_speed,
    measure_variants,
    most_gets_done,
    open_variants,
)
from okddip_search.errors import UserError
from okddip_search.space.load import load_space
from trainer.config.train import TrainConfig
from trainer.data.load import load_development_data
from trainer.tools.timing import Shape, Variant, epoch_seconds, side_by_side, time_variants

SPACE = """\
name: tiny
data: {name: digits}
trainer: {model: resnet8, width: 0.25, batch_size: 16, executor: auto, precision: auto}
search:
  num_peers: {type: int, low: 1, high: 3}
resources: {cpus_per_trial: auto}
"""
DIGITS = Shape(1, 8, 8, 10)


def space(tmp_path, text=SPACE):
    (tmp_path / "tiny.yaml").write_text(text)
    return load_space(str(tmp_path / "tiny.yaml"))


def measured(spec, directory, cores=2):
    """Measure in this process instead of a worker."""
    allocation = allocate(spec.resources, [Node(cores, 0)], asked_gpus=0)
    asked = []

    def ask(function, *arguments, cpus, gpus):
        asked.append((function.__name__, cpus, gpus))
        return function(*arguments)

    return find_speed(spec, allocation, DIGITS, cores, directory, ask), asked


def test_it_is_measured_once_and_read_again_by_a_resumed_search(tmp_path):
    spec = space(tmp_path)
    speed, asked = measured(spec, tmp_path)
    assert asked == [("measure_variants", 1.0, 0.0), ("measure_packing", 2, 0.0)]
    assert speed.chosen["executor"] in ("eager", "fused")
    assert speed.chosen["precision"] in ("fp32", "bf16")
    assert speed.chosen["cpus_per_trial"] in (1.0, 2.0)
    assert all(seconds > 0 for seconds in speed.seconds.values())
    assert [one["trials"] for one in speed.tried] == [1, 2]
    again, asked = measured(spec, tmp_path)
    assert (again, asked) == (speed, [])
    applied = speed.applied_to(spec).fixed
    assert {applied["executor"], applied["precision"]}.isdisjoint({"auto"})
    assert speed.share(spec.resources).cpus_per_trial == speed.chosen["cpus_per_trial"]
    asked_for = spec.resources.model_copy(update={"cpus_per_trial": 4.0})
    assert speed.share(asked_for) == asked_for  # a resumed search may be shared out otherwise


def test_an_epoch_is_timed_once_and_kept_with_the_other_timings(tmp_path):
    spec = space(tmp_path)
    allocation = allocate(spec.resources, [Node(2, 0)], asked_gpus=0)
    asked = []

    def ask(function, *arguments, cpus, gpus):
        asked.append(function.__name__)
        return function(*arguments)

    speed = Speed({"executor": "eager"})
    pace = find_pace(spec, allocation, DIGITS, (96, 32), speed, ask)
    assert 0 < pace.middle_s and 0 < pace.largest_s and pace.baseline_s == 0
    keep_pace(tmp_path, speed, pace)
    known = load_speed(tmp_path)
    assert known.chosen == speed.chosen
    assert find_pace(spec, allocation, DIGITS, (96, 32), known, ask) == pace
    assert asked == ["measure_pace"]


def test_an_epochs_length_follows_from_a_sample_of_its_images():
    config = TrainConfig(model="resnet8", width=0.25, batch_size=16, num_threads=1)
    sample, whole = (epoch_seconds(config, DIGITS, n, n // 2) for n in (160, 16_000))
    assert 20 < whole / sample < 500, "a hundred times the images, on a machine with other work"


def test_what_the_space_says_is_not_measured(tmp_path):
    text = SPACE.replace("executor: auto, precision: auto", "executor: eager")
    speed, asked = measured(space(tmp_path, text.replace("auto", "1")), tmp_path)
    assert (speed, asked) == (Speed(), [])
    assert not (tmp_path / "speed.json").exists()


def test_a_damaged_record_is_told_and_not_measured_anew(tmp_path):
    (tmp_path / "speed.json").write_text("{")
    with pytest.raises(UserError, match="speed.json cannot be read"):
        load_speed(tmp_path)


@pytest.mark.parametrize(
    ("trainer", "search", "variants"),
    [
        ("executor: auto", "", ["eager fp32", "fused fp32"]),
        ("precision: auto", "", ["eager fp32", "eager bf16"]),
        ("executor: fused, precision: auto", "", ["fused fp32", "fused bf16"]),
        ("executor: auto", "model: {type: categorical, choices: [resnet8, vgg16]}", ["auto fp32"]),
        ("", "", ["eager fp32"]),
    ],
)
def test_only_what_is_left_open_is_a_variant(tmp_path, trainer, search, variants):
    fields = {"data": "{name: digits}", "trainer": f"{{{trainer}}}"}
    text = "".join(f"{k}: {v}\n" for k, v in fields.items())
    text += f"search:\n  lr: {{type: float, low: 0.1, high: 0.2}}\n  {search}\n"
    spec = space(tmp_path, "name: t\n" + text)
    assert [" ".join(variant) for variant in open_variants(spec, on_gpu=False)] == variants
    left = [name for name in ("executor", "precision") if f"{name}: auto" in trainer]
    assert left_to_timing(spec) == (left if len(variants) > 1 else [])


@pytest.mark.parametrize(
    ("more", "is_tried"),
    [
        ("", True),
        ("confirm: {methods: [single, dml]}", True),
        ("confirm: {methods: [single, codistillation]}", False),  # its steps are not alike
        ("trainer: {method: codistillation, executor: auto}", False),
        ("trainer: {executor: eager}", False),
    ],
)
def test_a_cuda_graph_is_tried_where_it_suits_all_that_is_trained(tmp_path, more, is_tried):
    base = "name: t\ndata: {name: digits}\nsearch: {lr: {type: float, low: 0.1, high: 0.2}}\n"
    trainer = "" if more.startswith("trainer") else "trainer: {executor: auto}\n"
    spec = space(tmp_path, base + trainer + more)
    assert ("cuda_graph", "fp32") not in open_variants(spec, on_gpu=False)
    assert (("cuda_graph", "fp32") in open_variants(spec, on_gpu=True)) is is_tried


def test_a_cuda_graph_that_cannot_be_trusted_is_left_out_and_told(tmp_path):
    config = space(tmp_path).example().to_dict() | {"device": "cpu", "num_threads": 1}
    answer = measure_variants(config, DIGITS, [("eager", "fp32"), ("cuda_graph", "fp32")])
    assert [row[:2] for row in answer["seconds"]] == [["eager", "fp32"]]
    why = answer["left_out"]["cuda_graph fp32"]
    assert "CUDA graphs on a GPU alone, not on cpu" in why
    speed = Speed({"executor": "eager"}, {"eager fp32": 0.01}, answer["left_out"])
    assert speed.describe() == (
        f"Chosen by timing: executor eager (eager fp32 10 ms; cuda_graph fp32 left out: {why})"
    )


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ((1.0, 0.5, 0.8), "b"),
        ((1.0, 0.97, 0.99), "a"),  # within what a machine's other load does
        ((1.0, 0.80, 0.79), "b"),  # the third is not worth it beside the second
        ((0.5, 1.0, 1.0), "a"),
    ],
)
def test_a_variant_is_chosen_where_it_is_worth_it(seconds, chosen):
    assert (
        fastest({("a", ""): seconds[0], ("b", ""): seconds[1], ("c", ""): seconds[2]})[0] == chosen
    )


@pytest.mark.parametrize(
    ("steps_per_s", "gib", "total_gib", "trials"),
    [
        ((10, 18, 30, 31), (9, 18, 36, 72), 80, 4),  # eight get hardly more done than four
        ((10, 18, 30, 31), (9, 18, 36, 72), 36, 2),  # four leave no headroom
        ((10, 9, 8, 7), (9, 18, 36, 72), 80, 1),
        ((10, 9, 30, 20), (0, 0, 0, 0), 0, 4),  # the CPU's memory is not counted
    ],
)
def test_trials_share_a_device_in_the_number_that_gets_most_done(
    steps_per_s, gib, total_gib, trials
):
    tried = [Candidate(2**i, s, g) for i, (s, g) in enumerate(zip(steps_per_s, gib, strict=True))]
    assert most_gets_done(tried, total_gib) == trials


def test_variants_that_a_network_does_not_have_are_left_out():
    config = TrainConfig(model="vgg16", width=0.125, num_peers=1, device="cpu", batch_size=4)
    shape = Shape(3, 32, 32, 4)
    times = time_variants(config, shape, [Variant("eager", "fp32"), Variant("fused", "fp32")])
    assert list(times) == [Variant("eager", "fp32")]


def test_runs_that_do_not_fit_are_told_from_slow_ones():
    config = TrainConfig(
        model="resnet8", width=0.25, num_peers=1, device="cpu", num_threads=1, batch_size=16
    )
    load = side_by_side(config, DIGITS, 2, seconds=0.3)
    assert load is not None and load.steps_per_s > 0 and load.memory_gib == 0
    assert side_by_side(config, Shape(1, 4, 4, 10), 1) is None  # the process ended


def test_a_resumed_search_asks_its_own_machine(tmp_path):
    text = SPACE.replace("auto", "fused", 1).replace("precision: auto", "precision: fp32")
    spec = space(tmp_path, text.replace("cpus_per_trial: auto", "cpus_per_trial: 1"))
    elsewhere = {"device": "cuda", "num_threads": 16, "executor": "cuda_graph"}
    began = spec.model_copy(update={"machine": elsewhere})
    request = prepare.Request(began, tmp_path, True, 0, None, None, "")
    data = load_development_data(spec.data)
    as_run, _, _ = prepare.settle(request, [Node(2, 0)], data, StopSwitch(print, "again"))
    assert as_run.machine == {"device": "cpu", "num_threads": 1}
    assert as_run.fixed["executor"] == "fused"


def test_a_search_goes_on_where_the_worker_that_times_dies(tmp_path, monkeypatch):
    def dies(*arguments, **named):
        raise WorkerCrashedError

    monkeypatch.setattr(prepare, "call_in_worker", dies)
    spec = space(tmp_path)
    request = prepare.Request(spec, tmp_path, False, 0, None, None, "")
    data = load_development_data(spec.data)
    stop = StopSwitch(print, "again")
    as_run, allocation, speed = prepare.settle(request, [Node(2, 0)], data, stop)
    assert (speed, allocation.slots) == (Speed(), 2)
    assert as_run.fixed["executor"] == "auto"
    assert not (tmp_path / "speed.json").exists()
