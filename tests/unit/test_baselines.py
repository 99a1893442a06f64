"""Who is confirmed, chosen from a space and its study before anything is trained."""

from dataclasses import replace

import pytest
from optuna.trial import TrialState

from okddip_search.algorithms.seeds import trial_seed
from okddip_search.confirm.plan import (
    LONGER_SINGLE,
    PAPER,
    Plan,
    agreed_settings,
    choose,
    longer_single,
)
from okddip_search.errors import UserError
from okddip_search.space.baselines import baseline_config, baseline_spec
from okddip_search.space.load import load_space
from okddip_search.space.settings import ConfirmSettings
from okddip_search.study.study import open_study
from trainer.config.train import TrainConfig

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
    return choose(Plan.begin(spec, ConfirmSettings(**settings)), spec, study, {})


def test_the_best_configurations_the_papers_setting_and_every_baseline_take_part(spec, study_of):
    plan = plan_of(spec, study_of([0.5, 0.7, 0.9, None]), top=2)
    assert [(c.label, c.kind) for c in plan.configurations] == [
        ("trial 2", "candidate"),
        ("trial 1", "candidate"),
        (PAPER, "paper"),
        ("single", "baseline"),
        ("independent", "baseline"),
        ("dml", "baseline"),
        ("one", "baseline"),
        ("cl_ilr", "baseline"),
    ]
    assert (plan.configurations[0].search_trial, plan.configurations[0].search_value) == (2, 0.9)
    assert [c.label for c in plan.configurations if c.may_win] == ["trial 2", "trial 1"]


def test_the_papers_setting_takes_part_once_also_when_it_is_the_searchs_best(spec, study_of):
    plan = plan_of(spec, study_of([0.9, 0.7]), top=2, methods=[])
    assert [c.label for c in plan.configurations] == ["trial 1", PAPER]
    assert plan.configurations[1].search_value == 0.9
    assert plan.configurations[1].config["lr"] == 0.1
    assert plan.configurations[1].may_win


def test_the_papers_setting_takes_part_also_when_the_search_pruned_it(spec, study_of):
    plan = plan_of(spec, study_of([None, 0.7]), methods=[])
    paper = plan.configurations[-1]
    assert (paper.label, paper.search_value, paper.config["lr"]) == (PAPER, None, 0.1)


def test_without_an_enqueued_configuration_the_papers_are_the_trainers_defaults(tmp_path):
    text = "".join(line + "\n" for line in SPACE.splitlines() if "enqueue" not in line)
    (tmp_path / "space.yaml").write_text(text)
    spec = load_space(tmp_path / "space.yaml")
    study = open_study(tmp_path, spec)
    trial = study.ask()
    spec.suggest(trial)
    study.tell(trial, 0.5)
    paper = next(c for c in plan_of(spec, study).configurations if c.kind == "paper")
    assert (paper.config["lr"], paper.config["num_peers"], paper.config["epochs"]) == (0.1, 3, 6)


def test_nothing_complete_is_nothing_to_confirm(spec, study_of):
    with pytest.raises(UserError, match="nothing to confirm"):
        plan_of(spec, study_of([None]))


def test_the_seeds_are_fresh_and_a_longer_list_begins_with_the_shorter(spec):
    plan = Plan.begin(spec, ConfirmSettings(seeds=100))
    assert len(set(plan.seeds)) == 100
    assert not set(plan.seeds) & {trial_seed(0, number) for number in range(1000)}
    assert replace(plan, settings=ConfirmSettings(seeds=3)).seeds == plan.seeds[:3]
    assert replace(plan, settings=ConfirmSettings(seeds=200)).seeds[:100] == plan.seeds


def test_the_seeds_are_those_of_the_plan_whatever_the_space_says_later(spec, tmp_path):
    plan = Plan.begin(spec, ConfirmSettings())
    plan.save(tmp_path / "confirm")
    known = Plan.load(tmp_path / "confirm")
    assert replace(known, settings=ConfirmSettings(seeds=9)).seeds[:5] == plan.seeds


def test_a_sampled_configuration_that_is_the_papers_is_not_trained_twice(spec, study_of):
    study = study_of([0.7])
    study.enqueue_trial(study.trials[0].params)
    trial = study.ask()
    spec.suggest(trial)
    study.tell(trial, 0.9)
    plan = plan_of(spec, study, methods=[])
    assert [(c.label, c.may_win) for c in plan.configurations] == [(PAPER, True)]


def test_a_candidate_that_is_just_what_a_baseline_would_be_is_compared_as_one(tmp_path):
    text = SPACE.replace("structure: network, ", "").replace(
        "search:\n", "search:\n  method: {type: categorical, choices: [okddip, single]}\n"
    )
    text = text.replace("  num_peers: {type: int, low: 2, high: 4}\n", "")
    text = text.replace("  leader_weight: {type: float, low: 0.1, high: 5.0}\n", "")
    text = text.replace(
        "[{lr: 0.1, num_peers: 3, leader_weight: 1.0}]",
        "[{method: okddip, lr: 0.1}, {method: single, lr: 0.2}, {method: okddip, lr: 0.3}]",
    ).replace(", temperature: 4.0", "")
    (tmp_path / "space.yaml").write_text(text)
    spec = load_space(tmp_path / "space.yaml")
    study = open_study(tmp_path, spec)
    for value in (0.5, 0.9, 0.8):
        trial = study.ask()
        spec.suggest(trial)
        study.tell(trial, value)
    plan = plan_of(spec, study, top=2, methods=["single", "dml"], single="seconds")
    assert [(c.label, c.may_win, c.is_baseline) for c in plan.configurations] == [
        ("trial 1", True, True),
        ("trial 2", True, False),
        (PAPER, False, True),
        ("dml", False, True),
    ]
    assert plan.single.label == "trial 1"
    assert longer_single(plan, {"trial 1": [2.0]}).config["epochs"] == 6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"top": 2}, "other settings: top"),
        ({"seeds": 4}, r"seeds \(from 5 to 4\)"),
        ({"baselines": "tuned"}, "other settings: baselines"),
        ({"methods": ["singel"]}, "did you mean 'single'"),
    ],
)
def test_a_plan_that_has_begun_takes_more_seeds_and_nothing_else(spec, changes, words):
    begun = Plan.begin(spec, ConfirmSettings())
    assert agreed_settings(spec, begun, {"seeds": 9}).seeds == 9
    with pytest.raises(UserError, match=words):
        agreed_settings(spec, begun, changes)


def test_a_plan_from_before_a_field_of_the_images_has_its_default(spec, tmp_path):
    begun = Plan.begin(spec, ConfirmSettings())
    older = replace(begun, data={k: v for k, v in begun.data.items() if k != "own_validation"})
    assert agreed_settings(spec, older, {}) == begun.settings
    changed = load_space(tmp_path / "space.yaml", ["data.own_validation=false"])
    with pytest.raises(UserError, match="prepared in another way"):
        agreed_settings(changed, older, {})


def test_images_that_are_prepared_in_another_way_are_refused(spec, tmp_path):
    begun = Plan.begin(spec, ConfirmSettings())
    moved = load_space(tmp_path / "space.yaml", ["data.root=/elsewhere"])
    assert agreed_settings(moved, begun, {}) == begun.settings
    flipped = load_space(tmp_path / "space.yaml", ["data.flip=true"])
    with pytest.raises(UserError, match="prepared in another way"):
        agreed_settings(flipped, begun, {})


def test_a_plan_is_read_back_as_it_was_written(spec, study_of, tmp_path):
    plan = plan_of(spec, study_of([0.5, 0.7]), methods=["single"])
    plan.save(tmp_path / "confirm")
    assert Plan.load(tmp_path / "confirm") == plan
    assert Plan.load(tmp_path) is None


def test_a_plan_of_version_0_1_0_which_says_rival_is_read(tmp_path, spec, study_of):
    plan = plan_of(spec, study_of([0.8, 0.85, 0.9]))
    plan.save(tmp_path)
    path = tmp_path / "plan.yaml"
    text = path.read_text().replace("is_baseline:", "is_rival:")
    path.write_text(text.replace("kind: baseline", "kind: rival"))
    assert "is_rival: true" in path.read_text() and "kind: rival" in path.read_text()
    assert Plan.load(tmp_path) == plan


def test_a_plan_of_an_earlier_version_has_the_old_name_of_the_baselines(spec, tmp_path):
    plan = Plan.begin(spec, ConfirmSettings(baselines="tuned"))
    plan.save(tmp_path)
    text = (tmp_path / "plan.yaml").read_text()
    (tmp_path / "plan.yaml").write_text(text.replace("baselines: tuned", "rivals: tuned"))
    assert Plan.load(tmp_path) == plan


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
def test_a_baseline_has_the_searched_optimiser_network_and_length(method):
    baseline = baseline_config(method, LEADING)
    assert baseline["method"] == method
    for name in ("model", "width", "lr", "weight_decay", "lr_schedule", "epochs", "batch_size",
                 "momentum", "label_smoothing"):  # fmt: skip
        assert baseline[name] == LEADING[name], name


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
def test_a_baseline_has_the_same_group_size_and_teaches_as_published(
    method, peers, structure, temperature
):
    baseline = baseline_config(method, LEADING)
    assert (baseline["num_peers"], baseline["structure"], baseline["temperature"]) == (
        peers, structure, temperature
    )  # fmt: skip
    assert (baseline["peer_weight"], baseline["leader_weight"]) == (1.0, 1.0)
    assert baseline["attention"] == "learned"


def test_a_group_baseline_of_a_single_network_has_the_usual_number_of_peers():
    alone = TrainConfig(method="single", lr=0.2).to_dict()
    assert baseline_config("dml", alone)["num_peers"] == 3


def test_a_baseline_that_needs_a_teacher_is_refused_without_one_when_the_space_is_read(tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE + "confirm: {methods: [single, kd]}\n")
    with pytest.raises(UserError, match=r"space.yaml:10: .*kd cannot be trained: .*teacher"):
        load_space(tmp_path / "space.yaml")


def test_a_baselines_own_search_has_the_same_budget_and_only_the_fields_that_it_reads(spec):
    single, dml, one = (baseline_spec(spec, m) for m in ("single", "dml", "one"))
    assert list(single.search) == ["lr"]
    assert list(dml.search) == ["lr", "num_peers"]
    assert one.example().structure == "branch"
    assert single.study == dml.study == spec.study
    assert dml.enqueue == ({"lr": 0.1, "num_peers": 3},)
    assert "temperature" not in single.trainer


def test_a_baselines_own_search_drops_the_conditions_on_the_method():
    spec = load_space("methods_cifar10", ["data.root=/nowhere"])
    dml, single = baseline_spec(spec, "dml"), baseline_spec(spec, "single")
    assert set(dml.search) == {
        "lr", "weight_decay", "num_peers", "temperature", "peer_weight", "dml_target"
    }  # fmt: skip
    assert not any(dimension.when for dimension in dml.search.values())
    assert set(single.search) == {"lr", "weight_decay"}


def test_single_can_also_be_trained_for_as_long_as_the_group_took(spec, study_of):
    plan = plan_of(spec, study_of([0.5, 0.7]), single="seconds")
    longer = longer_single(plan, {"single": [2.0, 4.0], "trial 1": [9.0], PAPER: [100.0]})
    assert (longer.label, longer.kind, longer.method) == (LONGER_SINGLE, "baseline", "single")
    assert longer.config["epochs"] == 18  # 9 s of the search's best against 3 s, 6 epochs
    assert "18 epochs" in longer.note


def test_single_is_never_trained_for_less_than_the_epochs_of_the_group(spec, study_of):
    plan = plan_of(spec, study_of([0.5, 0.7]), single="seconds")
    assert longer_single(plan, {"single": [5.0], "trial 1": [4.0]}).config["epochs"] == 6


def test_without_both_times_there_is_no_longer_single(spec, study_of):
    plan = plan_of(spec, study_of([0.5, 0.7]), single="seconds")
    assert longer_single(plan, {"trial 1": [4.0], "single": []}) is None
    without = plan_of(spec, study_of([]), methods=["dml"], single="seconds")
    assert longer_single(without, {"trial 1": [4.0]}) is None


def test_a_baselines_own_search_has_no_more_trials_than_its_space_has_points(tmp_path):
    (tmp_path / "space.yaml").write_text(
        SPACE.replace("lr: {type: float, low: 0.001, high: 1.0, log: true}",
                      "lr: {type: categorical, choices: [0.1, 0.2]}")
    )  # fmt: skip
    spec = load_space(tmp_path / "space.yaml")
    assert baseline_spec(spec, "single").study.trials == 2  # the enqueued one is among them
    assert baseline_spec(spec, "dml").study.trials == 6
    assert baseline_spec(spec, "okddip").study.trials == 9


def test_a_baselines_own_search_leaves_out_what_applies_only_with_another_structure(tmp_path):
    (tmp_path / "space.yaml").write_text(
        SPACE.replace("structure: network, ", "").replace(
            "search:\n",
            "search:\n  structure: {type: categorical, choices: [branch, network]}\n"
            "  momentum: {type: float, low: 0.8, high: 0.95, when: {structure: network}}\n"
            "  label_smoothing: {type: float, low: 0.0, high: 0.2, when: {structure: branch}}\n",
        )
    )
    spec = load_space(tmp_path / "space.yaml")
    one = baseline_spec(spec, "one").search
    assert "momentum" not in one and not one["label_smoothing"].when
    assert baseline_spec(spec, "dml").search["momentum"].when == {"structure": ("network",)}
