"""Who is confirmed, chosen from a space and its study before anything is trained."""

import pytest
from optuna.trial import TrialState

from okddip_search.contenders import (
    LONGER_SINGLE,
    PAPER,
    Plan,
    first_seeds,
    longer_single,
    make_plan,
    rival_config,
    rival_spec,
)
from okddip_search.errors import UserError
from okddip_search.seeds import trial_seed
from okddip_search.settings import ConfirmSettings
from okddip_search.space import load_space
from okddip_search.study import open_study
from trainer.config import TrainConfig

SPACE = """\
name: chosen
data: {name: digits}
trainer: {model: resnet8, epochs: 6, batch_size: 32, structure: network, temperature: 4.0}
search:
  lr: {type: float, low: 0.001, high: 1.0, log: true}
  num_peers: {type: int, low: 2, high: 4}
  leader_weight: {type: float, low: 0.1, high: 5.0}
enqueue: [{lr: 0.1, num_peers: 3, leader_weight: 1.0}]
study: {trials: 9, sampler: random}
"""


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    return load_space(tmp_path / "space.yaml")


@pytest.fixture
def study_of(tmp_path, spec):
    """Make a study whose trials ended with these values; None: pruned."""

    def study_of(values):
        study = open_study(tmp_path, spec)
        for value in values:
            trial = study.ask()
            spec.suggest(trial)
            state = TrialState.PRUNED if value is None else TrialState.COMPLETE
            trial.report(0.1, 0)
            study.tell(trial, value, state=state)
        return study

    return study_of


def plan_of(spec, study, **settings):
    return make_plan(spec, study, ConfirmSettings(**settings), {})


def test_the_best_configurations_the_papers_setting_and_every_rival_take_part(spec, study_of):
    plan = plan_of(spec, study_of([0.5, 0.7, 0.9, None]), top=2)
    assert [(c.label, c.kind) for c in plan.contenders] == [
        ("trial 2", "candidate"),
        ("trial 1", "candidate"),
        (PAPER, "paper"),
        ("single", "rival"),
        ("independent", "rival"),
        ("dml", "rival"),
        ("one", "rival"),
        ("cl_ilr", "rival"),
    ]
    assert (plan.contenders[0].search_trial, plan.contenders[0].search_value) == (2, 0.9)
    assert [c.label for c in plan.contenders if c.may_win] == ["trial 2", "trial 1"]


def test_the_papers_setting_takes_part_once_also_when_it_is_the_searchs_best(spec, study_of):
    plan = plan_of(spec, study_of([0.9, 0.7]), top=2, methods=[])
    assert [c.label for c in plan.contenders] == ["trial 1", PAPER]
    assert plan.contenders[1].search_value == 0.9
    assert plan.contenders[1].config["lr"] == 0.1
    assert plan.contenders[1].may_win


def test_the_papers_setting_takes_part_also_when_the_search_pruned_it(spec, study_of):
    plan = plan_of(spec, study_of([None, 0.7]), methods=[])
    paper = plan.contenders[-1]
    assert (paper.label, paper.search_value, paper.config["lr"]) == (PAPER, None, 0.1)


def test_without_an_enqueued_configuration_the_papers_are_the_trainers_defaults(tmp_path):
    text = "".join(line + "\n" for line in SPACE.splitlines() if "enqueue" not in line)
    (tmp_path / "space.yaml").write_text(text)
    spec = load_space(tmp_path / "space.yaml")
    study = open_study(tmp_path, spec)
    trial = study.ask()
    spec.suggest(trial)
    study.tell(trial, 0.5)
    paper = next(c for c in plan_of(spec, study).contenders if c.kind == "paper")
    assert (paper.config["lr"], paper.config["num_peers"], paper.config["epochs"]) == (0.1, 3, 6)


def test_nothing_complete_is_nothing_to_confirm(spec, study_of):
    with pytest.raises(UserError, match="nothing to confirm"):
        plan_of(spec, study_of([None]))


def test_the_seeds_are_fresh_and_a_longer_list_begins_with_the_shorter(spec, study_of):
    assert first_seeds(0, 5)[:3] == first_seeds(0, 3)
    assert len(set(first_seeds(0, 100))) == 100
    assert not set(first_seeds(0, 100)) & {trial_seed(0, number) for number in range(1000)}
    plan = plan_of(spec, study_of([0.5]), seeds=2)
    more = plan.with_seeds(4, spec.study.seed)
    assert more.seeds[:2] == plan.seeds and len(more.seeds) == more.settings.seeds == 4


def test_a_plan_is_read_back_as_it_was_written(spec, study_of, tmp_path):
    plan = plan_of(spec, study_of([0.5, 0.7]), methods=["single"])
    plan.save(tmp_path / "confirm")
    assert Plan.load(tmp_path / "confirm") == plan
    assert Plan.load(tmp_path) is None


@pytest.mark.parametrize("damage", ["", "seeds: [1]", "{", "settings: {top: 0}"])
def test_a_damaged_plan_is_told(tmp_path, damage):
    (tmp_path / "plan.yaml").write_text(damage)
    with pytest.raises(UserError, match="damaged"):
        Plan.load(tmp_path)


LEADING = TrainConfig(
    model="resnet20", width=0.5, structure="network", num_peers=4, lr=0.3, weight_decay=1e-3,
    lr_schedule="cosine", epochs=7, batch_size=16, label_smoothing=0.1,
    temperature=5.0, peer_weight=2.0, leader_weight=3.0, attention="mean",
).to_dict()  # fmt: skip


@pytest.mark.parametrize("method", ["single", "independent", "dml", "one", "cl_ilr"])
def test_a_rival_has_the_searched_optimiser_network_and_length(method):
    rival = rival_config(method, LEADING)
    assert rival["method"] == method
    for name in ("model", "width", "lr", "weight_decay", "lr_schedule", "epochs", "batch_size",
                 "momentum", "label_smoothing"):  # fmt: skip
        assert rival[name] == LEADING[name], name


@pytest.mark.parametrize(
    ("method", "peers", "structure", "temperature"),
    [
        ("single", 0, "network", 3.0),
        ("independent", 4, "network", 3.0),
        ("dml", 4, "network", 1.0),
        ("one", 4, "branch", 3.0),
        ("cl_ilr", 4, "branch", 3.0),
        ("codistillation", 4, "network", 1.0),
    ],
)
def test_a_rival_has_the_same_group_size_and_teaches_as_published(
    method, peers, structure, temperature
):
    rival = rival_config(method, LEADING)
    assert (rival["num_peers"], rival["structure"], rival["temperature"]) == (
        peers, structure, temperature
    )  # fmt: skip
    assert (rival["peer_weight"], rival["leader_weight"]) == (1.0, 1.0)
    assert rival["attention"] == "learned"


def test_a_group_rival_of_a_single_network_has_the_usual_number_of_peers():
    alone = TrainConfig(method="single", lr=0.2).to_dict()
    assert rival_config("dml", alone)["num_peers"] == 3


def test_a_rival_that_needs_a_teacher_is_refused_without_one_when_the_space_is_read(tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE + "confirm: {methods: [single, kd]}\n")
    with pytest.raises(UserError, match=r"space.yaml:10: .*kd cannot be trained: .*teacher"):
        load_space(tmp_path / "space.yaml")


def test_a_rivals_own_search_has_the_same_budget_and_only_the_fields_that_it_reads(spec):
    single, dml, one = (rival_spec(spec, m) for m in ("single", "dml", "one"))
    assert list(single.search) == ["lr"]
    assert list(dml.search) == ["lr", "num_peers"]
    assert one.example().structure == "branch"
    assert single.study == dml.study == spec.study
    assert dml.enqueue == ({"lr": 0.1, "num_peers": 3},)
    assert "temperature" not in single.trainer


def test_a_rivals_own_search_drops_the_conditions_on_the_method():
    spec = load_space("methods_cifar10", ["data.root=/nowhere"])
    dml, single = rival_spec(spec, "dml"), rival_spec(spec, "single")
    assert set(dml.search) == {
        "lr", "weight_decay", "num_peers", "temperature", "peer_weight", "dml_target"
    }  # fmt: skip
    assert not any(dimension.when for dimension in dml.search.values())
    assert set(single.search) == {"lr", "weight_decay"}


def test_single_can_also_be_trained_for_as_long_as_the_group_took(spec, study_of):
    plan = plan_of(spec, study_of([0.5, 0.7]), single="seconds")
    longer = longer_single(plan, {"single": [2.0, 4.0], "trial 1": [9.0], PAPER: [100.0]})
    assert (longer.label, longer.kind, longer.method) == (LONGER_SINGLE, "rival", "single")
    assert longer.config["epochs"] == 18  # 9 s of the search's best against 3 s, 6 epochs
    assert "18 epochs" in longer.note


def test_single_is_never_trained_for_less_than_the_epochs_of_the_group(spec, study_of):
    plan = plan_of(spec, study_of([0.5, 0.7]), single="seconds")
    assert longer_single(plan, {"single": [5.0], "trial 1": [4.0]}).config["epochs"] == 6


def test_unknown_times_are_told(spec, study_of):
    plan = plan_of(spec, study_of([0.5, 0.7]), single="seconds")
    with pytest.raises(UserError, match="single"):
        longer_single(plan, {"trial 1": [4.0], "single": []})
