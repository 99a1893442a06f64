"""Every kind of wrong space file: where it is wrong, in what words, and the nearest right name."""

from pathlib import Path

import pytest
from space_helpers import BASE

from okddip_search.errors import UserError
from okddip_search.space.load import load_saved, load_space


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "t.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def complaint(folder: Path, text: str | bytes, *overrides: str, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        load_space(write(folder, text), overrides, **options)  # type: ignore[arg-type]
    return caught.value.message


def base_with(old: str, new: str) -> str:
    assert old in BASE
    return BASE.replace(old, new)


def searching(text: str) -> str:
    """A space with one more searched field, on line 10."""
    return f"{BASE}  {text}\n"


# id, the file, the line of the complaint, words in it
WRONG = [
    # the text itself
    ("empty file", "", 1, ["empty"]),
    ("comments only", "# nothing\n\n", 1, ["empty"]),
    ("a list", "- name: t\n", 1, ["mapping of sections"]),
    ("a scalar", "digits\n", 1, ["mapping of sections"]),
    ("tab", "name: t\ndata:\n\tname: digits\n", 3, ["not valid YAML", "spaces, not tabs"]),
    ("unclosed brace", BASE + "study: {trials: 3\n", 11, ["not valid YAML"]),
    ("unclosed quote", 'name: "t\ndata: 1\n', 3, ["not valid YAML", "quoted scalar"]),
    ("colon in a value", "name: a: b\n", 1, ["not valid YAML", "mapping values"]),
    ("bad indent", BASE + "study:\n   trials: 3\n  seed: 0\n", 12, ["not valid YAML"]),
    ("NUL", b"name: t\n\x00\n", 2, ["U+0000"]),
    ("latin-1", "name: t\n# caf\xe9\n".encode("latin-1"), 2, ["0xe9", "UTF-8"]),
    ("utf-16", BASE.encode("utf-16"), 1, ["UTF-8"]),
    ("two documents", BASE + "---\nname: u\n", 10, ["single document"]),
    ("alias of nothing", "name: t\ndata: *d\n", 2, ["not valid YAML", "undefined alias"]),
    ("alias to itself", "name: t\ndata: &d {root: *d}\n", 2, ["nested more than 20 levels"]),
    ("merge of a list", BASE + "study:\n  <<: [1]\n", 11, ["a merge key (<<) takes a mapping"]),
    ("merge of an unknown field", BASE + "study:\n  <<: {trial: 3}\n", 11, ["'trials'"]),
    ("aliases that explode", "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in ("ab", "bc", "cd")),
     1, ["more than 5,000 values"]),
    ("merge keys that explode", "a: &a {x: 1}\n" + "".join(
        f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 10)}]}}\n"
        for old, new in ("ab", "bc", "cd", "de")), (1, 2, 3, 4, 5), ["more than 5,000 values"]),
    ("a long text again and again", f"a: &a {'x' * 200_000}\nb: [{', '.join(['*a'] * 100)}]\n",
     1, ["more than 5,000 values"]),
    ("tag", "name: !!python/object/apply:os.system [ls]\n", 1, ["tags", "os.system"]),
    ("deep nesting", "name: t\ndata: " + "[" * 99 + "]" * 99, 2, ["levels deep"]),
    ("huge file", "#" * 300_000, 1, ["KiB"]),
    ("huge number", BASE + f"study: {{seed: {'9' * 5000}}}\n", 10, ["too large"]),
    ("infinite number", BASE + "study: {timeout: 1e999}\n", 10, ["not a finite number"]),
    ("key that is a list", BASE + "? [a]\n: 1\n", 10, ["plain word"]),
    ("duplicate section", BASE + "name: u\n", 10, ["duplicate key 'name'", "line 1"]),
    ("duplicate field", searching("lr: {type: int, low: 1, high: 2}"), 10, ["'lr'", "line 6"]),
    # sections
    ("unknown section", BASE + "serch: {}\n", 10, ["unknown section", "'search'"]),
    ("no name", BASE.replace("name: t\n", "", 1), 1, ["'name' is missing"]),
    ("no data", base_with("data: {name: digits}", ""), 1, ["'data' is missing"]),
    ("no search", "name: t\ndata: {name: digits}\n", 1, ["'search' is missing"]),
    ("empty search", "name: t\ndata: {name: digits}\nsearch:\n", 3, ["at least one"]),
    ("name with a slash", base_with("name: t", "name: ../t"), 1, ["'../t'", "letters"]),
    ("name a number", base_with("name: t", "name: 7"), 1, ["7 is not a name"]),
    ("section a scalar", base_with("{name: digits}", "digits"), 2, ["'digits'", "mapping"]),
    # data and trainer
    ("data field", base_with("{name: digits}", "{nam: digits}"), 2, ["data.nam", "'name'"]),
    ("data set", base_with("digits}", "digit}"), 2, ["'digit'", "mean 'digits'"]),
    ("data type", base_with("digits}", "digits, flip: on}"), 2, ["data.flip", "true or false"]),
    ("trainer field", base_with("epochs: 5", "epoch: 5"), 4, ["trainer.epoch", "'epochs'"]),
    ("trainer type", base_with("epochs: 5", "epochs: five"), 4, ["'five'", "whole number"]),
    ("trainer range", base_with("epochs: 5", "epochs: 0"), 4, ["0 is not", "[1, 100000]"]),
    ("trainer seed", base_with("epochs: 5", "seed: 5"), 4, ["study.seed"]),
    ("trainer data", base_with("epochs: 5", "data: {}"), 4, ["section of its own"]),
    ("milestones", base_with("epochs: 5", "lr_milestones: [0.5, 0.4]"), 4, ["ascending"]),
    # dimensions
    ("no dimension", searching("momentum: 0.9"), 10, ["0.9 is no range", "trainer"]),
    ("no type", searching("momentum: {low: 0, high: 0.9}"), 10,
     ["momentum", "write it as {type: float, low: 0, high: 0.9}"]),
    ("wrong type", searching("momentum: {type: flaot}"), 10, ["'flaot'", "'float'"]),
    ("missing end", searching("momentum: {type: float, low: 0}"), 10, ["high", "required"]),
    ("extra key", searching("momentum: {type: float, low: 0, hihg: 0.9}"), 10, ["mean 'high'"]),
    ("end not a number", searching("momentum: {type: float, low: a, high: 0.9}"), 10, ["'a'"]),
    ("empty range", searching("momentum: {type: float, low: 0.9, high: 0.9}"), 10, ["empty range"]),
    ("log from zero", searching("momentum: {type: float, low: 0, high: 0.9, log: true}"), 10,
     ["log"]),
    ("log with step", searching(
        "momentum: {type: float, low: 0.1, high: 0.9, log: true, step: 0.1}"), 10, ["no step"]),
    ("step too large", searching("momentum: {type: float, low: 0, high: 0.9, step: 1}"), 10,
     ["larger than the range"]),
    ("step does not divide", searching("momentum: {type: float, low: 0, high: 0.9, step: 0.4}"), 10,
     ["does not divide", "0.8 would fit"]),
    ("fraction for int", searching("batch_size: {type: int, low: 8.5, high: 9}"), 10,
     ["whole number"]),
    ("no choices", searching("model: {type: categorical, choices: []}"), 10, ["at least one"]),
    ("choices a scalar", searching("model: {type: categorical, choices: resnet8}"), 10, ["list"]),
    ("choice twice", searching("width: {type: categorical, choices: [1, 1.0]}"), 10, ["duplicate"]),
    ("choice a list", searching("lr_milestones: {type: categorical, choices: [[0.5]]}"), 10,
     ["is not a number, text"]),
    ("no trainer field", searching("temprature: {type: float, low: 1, high: 2}"), 10,
     ["no field of the trainer", "'temperature'"]),
    ("leader's epoch searched", searching("leader_epoch: {type: categorical, choices: [best]}"), 10,
     ["follows from objective.reduce"]),
    ("seed searched", searching("seed: {type: int, low: 1, high: 2}"), 10, ["cannot be searched"]),
    ("device searched", searching("device: {type: categorical, choices: [cpu]}"), 10, ["machine"]),
    ("data searched", searching("data: {type: categorical, choices: [digits]}"), 10, ["same data"]),
    ("fixed and searched", searching("epochs: {type: int, low: 1, high: 9}"), 10,
     ["both fixed in trainer and searched"]),
    ("low out of range", searching("momentum: {type: float, low: -1, high: 0.9}"), 10,
     ["momentum.low", "[0, 1)"]),
    ("high out of range", BASE + "  momentum:\n    type: float\n    low: 0\n    high: 1\n", 13,
     ["momentum.high", "[0, 1)"]),
    ("choice out of range", BASE + "  model:\n    type: categorical\n    choices:\n"
     "      - resnet8\n      - resnet9\n", 14, ["model.choices[1]", "'resnet9'", "resnet110"]),
    ("float for a whole field", searching("batch_size: {type: float, low: 8, high: 16}"), 10,
     ["8.0 is not a whole number"]),
    # conditions
    ("condition no mapping", searching("temperature: {type: int, low: 1, high: 2, when: lr}"), 10,
     ["temperature.when", "mapping"]),
    ("condition without value", searching(
        "temperature: {type: int, low: 1, high: 2, when: {num_peers: []}}"), 10,
     ["list of values"]),
    ("condition misspelt", searching(
        "temperature: {type: int, low: 1, high: 2, when: {num_peer: 1}}"), 10,
     ["not a searched field", "'num_peers'"]),
    ("condition on a fixed field", searching(
        "temperature: {type: int, low: 1, high: 2, when: {epochs: 5}}"), 10,
     ["not searched but fixed in trainer to 5"]),
    ("condition never true", searching(
        "temperature: {type: int, low: 1, high: 2, when: {lr_schedule: cosin}}"), 10,
     ["can never hold", "'cosine'"]),
    ("condition beyond the range", searching(
        "temperature: {type: int, low: 1, high: 2, when: {num_peers: [1, 5]}}"), 10,
     ["can never hold", "[1, 4]"]),
    ("condition on a real number", searching(
        "temperature: {type: int, low: 1, high: 2, when: {lr: 0.1}}"), 10, ["countable"]),
    ("condition on itself", searching(
        "temperature: {type: int, low: 1, high: 2, when: {temperature: 1}}"), 10, ["circle"]),
    ("conditions in a circle",
     searching("temperature: {type: int, low: 1, high: 2, when: {width: 1}}")
     + "  width: {type: int, low: 1, high: 2, when: {temperature: 1}}\n", (10, 11), ["circle"]),
    # fields that the method never reads
    ("fixed and unread", base_with("epochs: 5", "method: single\n  attention_dim: 7").replace(
        "  num_peers: {type: int, low: 1, high: 4}\n", ""), 5,
     ["trainer.attention_dim", "is not read by single", "only by okddip"]),
    ("searched and unread", base_with("epochs: 5", "method: dml").replace(
        "lr_decay: {type: float, low: 0.1, high: 0.5, when: {lr_schedule: multistep}}",
        "leader_weight: {type: float, low: 0.1, high: 5}"), 9,
     ["search.leader_weight", "is not read by dml, only by okddip", "mean 'peer_weight'"]),
    ("peers of one network", base_with("epochs: 5", "method: single"), 7,
     ["search.num_peers", "is not read by single, only by okddip, independent, dml"]),
    ("structure of a branched method", base_with("epochs: 5", "method: one") +
     "  structure: {type: categorical, choices: [branch, network]}\n", 10,
     ["search.structure", "is not read by one, only by okddip, single, independent, dml"]),
    ("unread by some of the methods",
     searching("method: {type: categorical, choices: [okddip, dml]}")
     + "  leader_weight: {type: float, low: 0.1, high: 5}\n", 11,
     ["is not read by dml, only by okddip", "limit it with when: {method: [okddip]}"]),
    ("condition on methods that do not read it",
     searching("method: {type: categorical, choices: [okddip, dml]}")
     + "  dml_target: {type: categorical, choices: [pairwise], when: {method: [okddip, dml]}}\n",
     11,
     ["is not read by okddip, only by dml", "limit it"]),
    ("read by none of the methods", base_with("epochs: 5", "stale_steps: 9").replace(
        "lr_decay: {type: float, low: 0.1, high: 0.5, when: {lr_schedule: multistep}}",
        "method: {type: categorical, choices: [okddip, dml]}"), 4,
     ["trainer.stale_steps", "is not read by okddip, dml, only by codistillation"]),
    ("unread by a baseline that is not tuned", base_with("epochs: 5", "stale_steps: 9")
     + "confirm: {methods: [codistillation]}\n", 4, ["is not read by okddip"]),
    ("unread by the teacher", base_with("epochs: 5", "method: kd\n"
     "  teacher:\n    method: single\n    leader_weight: 2").replace(
        "  num_peers: {type: int, low: 1, high: 4}\n", ""), 7,
     ["trainer.teacher.leader_weight", "is not read by single"]),
    ("fixed peers for one of the methods", base_with("epochs: 5", "num_peers: 2").replace(
        "num_peers: {type: int, low: 1, high: 4}",
        "method: {type: categorical, choices: [okddip, single]}"), 4,
     ["trainer.num_peers", "2, but single trains one network"]),
    # enqueue
    ("enqueue a mapping", BASE + "enqueue: {lr: 0.1}\n", 10, ["list of configurations"]),
    ("enqueue an empty entry", BASE + "enqueue:\n  - {}\n", 11, ["enqueue[0]"]),
    ("enqueue misspelt", BASE + "enqueue:\n  - lr: 0.1\n    num_peer: 3\n", 12, ["'num_peers'"]),
    ("enqueue a fixed field", BASE + "enqueue: [{epochs: 5}]\n", 10, ["fixed in trainer to 5"]),
    ("enqueue out of range", BASE + "enqueue:\n  - lr: 0.1\n  - lr: 2\n", 12, ["2 is not", "1.0]"]),
    ("enqueue no choice", BASE + "enqueue: [{lr_schedule: cos}]\n", 10, ["'cos'", "'cosine'"]),
    ("enqueue a fraction", BASE + "enqueue: [{num_peers: 2.5}]\n", 10, ["step", "2.5"]),
    ("enqueue the wrong type", BASE + "enqueue: [{num_peers: true}]\n", 10, ["True"]),
    ("enqueue inactive", BASE + "enqueue:\n  - lr_schedule: cosine\n    lr_decay: 0.1\n", 12,
     ["applies only with lr_schedule: multistep"]),
    ("enqueue without its condition", BASE + "enqueue: [{lr_decay: 0.1}]\n", 10, ["applies only"]),
    ("enqueue twice", BASE + "enqueue:\n  - lr: 1\n  - lr: 1.0\n", 12, ["same configuration"]),
    # objective, study, resources
    ("objective", BASE + "objective: accuracy\n", 10, ["'accuracy'", "leader_accuracy"]),
    ("reduce", BASE + "objective: {reduce: mean}\n", 10, ["objective.reduce", "mean_last_3"]),
    ("trials", BASE + "study:\n  trials: 0\n", 11, ["study.trials", "0 is not"]),
    ("study field", BASE + "study:\n  trial: 3\n", 11, ["'trials'"]),
    ("timeout", BASE + "study:\n  timeout: 8 hours\n", 11, ["'8 hours'", "90m"]),
    ("timeout like a clock", BASE + "study:\n  timeout: 1:30\n", 11, ["'1:30'"]),
    ("negative timeout", BASE + "study:\n  timeout: -5\n", 11, ["-5 is not a duration"]),
    ("sampler", BASE + "study: {sampler: tpee}\n", 10, ["'tpee'", "mean 'tpe'"]),
    ("sampler without type", BASE + "study: {sampler: {n_startup_trials: 3}}\n", 10,
     ["sampler.type"]),
    ("sampler argument", BASE + "study: {sampler: {type: tpe, n_startup_trial: 3}}\n", 10,
     ["no such argument", "'n_startup_trials'"]),
    ("sampler seed", BASE + "study: {sampler: {type: random, seed: 3}}\n", 10,
     ["no such argument"]),
    ("sampler argument type", BASE + "study: {sampler: {type: tpe, group: 3}}\n", 10,
     ["3 is not bool"]),
    ("sampler value", BASE + "study: {sampler: {type: qmc, qmc_type: x}}\n", 10, ["qmc_type"]),
    ("grid of reals",
     base_with("lr_decay", "momentum").replace(", when: {lr_schedule: multistep}", "")
     + "study: {sampler: grid}\n", 10, ["needs a step", "lr, momentum"]),
    ("grid with conditions", BASE + "study: {sampler: grid}\n", 10, ["conditional"]),
    ("pruner", BASE + "study:\n  pruner: medain\n", 11, ["'medain'", "mean 'median'"]),
    ("pruner null", BASE + "study:\n  pruner: null\n", 11, ["None is not one of", "none"]),
    ("pruner argument", BASE + "study:\n  pruner:\n    type: median\n    warmup: 3\n", 13,
     ["'median' has no such argument", "n_warmup_steps"]),
    ("pruner argument type", BASE + "study: {pruner: {type: median, n_warmup_steps: 1.5}}\n", 10,
     ["1.5 is not int"]),
    ("pruner argument missing", BASE + "study: {pruner: percentile}\n", 10,
     ["pruner.percentile", "required"]),
    ("pruner value", BASE + "study: {pruner: {type: median, n_warmup_steps: -1}}\n", 10, ["-1"]),
    ("hyperband value", BASE + "study: {pruner: {type: hyperband, reduction_factor: 1}}\n", 10,
     ["reduction"]),
    ("hyperband beyond the run", BASE + "study: {pruner: {type: hyperband, min_resource: 6}}\n", 10,
     ["min_resource 6", "5 (epochs)"]),
    ("wrapped pruner", BASE + "study:\n  pruner:\n    type: patient\n    patience: 3\n"
     "    wrapped: {type: medain}\n", 14, ["wrapped.type", "'median'"]),
    ("gpus", BASE + "resources: {gpus_per_trial: 1.5}\n", 10, ["1.5", "fraction of one GPU"]),
    ("auto", BASE + "resources: {trials_per_gpu: aut}\n", 10, ["[1, 64]", "did you mean 'auto'"]),
    ("cpus", BASE + "resources: {cpus_per_trial: 0}\n", 10, ["cpus_per_trial", "[1, inf)"]),
    ("concurrent", BASE + "resources: {max_concurent: 2}\n", 10, ["'max_concurrent'"]),
    # confirm
    ("confirm's field", BASE + "confirm: {seed: 3}\n", 10, ["confirm.seed", "'seeds'"]),
    ("confirm's range", BASE + "confirm:\n  seeds: 1\n", 11, ["1 is not", "[2, 1000]"]),
    ("confirm's kind", BASE + "confirm: 5\n", 10, ["5 is not a mapping"]),
    ("baselines", BASE + "confirm: {baselines: tunded}\n", 10, ["'tunded'", "searched, tuned"]),
    ("seeds", BASE + "confirm: {seeds: ato}\n", 10, ["'ato'", "[2, 1000]", "did you mean 'auto'"]),
    ("primary", BASE + "confirm: {primary: singel}\n", 10, ["'singel'", "did you mean 'single'"]),
    ("baseline", BASE + "confirm: {methods: [dlm]}\n", 10, ["'dlm'", "'dml'"]),
    ("baseline twice", BASE + "confirm: {methods: [dml, dml]}\n", 10, ["named twice"]),
    ("baselines as text", BASE + "confirm: {methods: dml}\n", 10, ["not a list of methods"]),
    ("baseline without teacher", BASE + "confirm: {methods: [kd]}\n", 10, ["trainer.teacher"]),
    ("both names", BASE + "confirm: {rivals: tuned, baselines: tuned}\n", 10,
     ["confirm.rivals", "unknown field"]),
    ("old name", BASE + "confirm:\n  seeds: 3\n  rivals: tunded\n", 12, ["'tunded'"]),
    ("single", BASE + "confirm: {single: minutes}\n", 10, ["'minutes'", "epochs, seconds"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "words"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
def test_wrong_space_names_line_and_remedy(
    tmp_path: Path, text: str | bytes, line: int | tuple[int, ...], words: list[str]
) -> None:
    message = complaint(tmp_path, text)
    lines = line if isinstance(line, tuple) else (line,)
    path = tmp_path / "t.yaml"
    assert any(message.startswith(f"{path}:{number}: ") for number in lines), message
    for word in words:
        assert word in message, message


def test_all_problems_are_reported_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = base_with("epochs: 5", "epoch: 5") + "enqueue: [{lr: 7}]\nstudy: {trials: 0}\n"
    lines = complaint(tmp_path, text).splitlines()
    assert [line.removeprefix(f"{tmp_path / 't.yaml'}:")[:2] for line in lines] == [
        "4:",
        "10",
        "11",
    ]


@pytest.mark.parametrize(
    ("override", "start"),
    [
        ("trainer.epoch=4", "--set trainer.epoch: unknown field (did you mean 'epochs'?)"),
        ("search.lr.high=0.001", "--set search.lr.high: search.lr: empty range"),
        ("search.lr.high=1e3", "--set search.lr.high: 1000.0 is not a number in (0, 100]"),
        ("search.lr.low=2", "--set search.lr.low: search.lr: empty range"),
        ("trainer.lr=0.1", "--set trainer.lr: is both fixed in trainer and searched"),
        ("search.epochs={type: int, low: 1, high: 2}", "--set search.epochs: is both fixed"),
        ("trainer.lr_milestones=[0.5", "--set trainer.lr_milestones: not valid YAML"),
        ("search.lr={type: *x}", "--set search.lr: "),
        ("study.trials=5 #2", "--set study.trials: '5 #2' is not a whole number"),
        ("name.x=1", "--set name.x: 'name' is not a mapping"),
        ("fobar=1", "--set fobar: unknown section"),
        ("study.timeout=soon", "--set study.timeout: 'soon' is not a duration"),
        ("trainer.epochs", "--set trainer.epochs: expected key=value"),
        ("trainer..epochs=3", "--set trainer..epochs=3: expected key=value"),
    ],
)
def test_wrong_override_names_itself(tmp_path: Path, override: str, start: str) -> None:
    assert complaint(tmp_path, BASE, override).startswith(start)


def test_wrong_options_name_themselves(tmp_path: Path) -> None:
    assert complaint(tmp_path, BASE, timeout="8 h ours").startswith("--timeout: '8 h ours'")
    assert complaint(tmp_path, BASE, trials=0).startswith("--trials: 0 is not a whole number")
    assert complaint(tmp_path, BASE, name="a/b").startswith("--name: 'a/b'")


READ = {
    "condition through another field": """  method: {type: categorical, choices: [okddip, dml]}
  dml_target: {type: categorical, choices: [pairwise, ensemble_first], when: {method: dml}}
  peer_weight: {type: float, low: 0.1, high: 5}
  leader_weight: {type: float, low: 0.1, high: 5, when: {method: okddip}}
""",
    "teacher of a baseline": """  momentum: {type: float, low: 0.8, high: 0.9}
trainer: {teacher: {model: resnet8, method: single}}
confirm: {methods: [kd]}
""",
    "field of a tuned baseline": """  momentum: {type: float, low: 0.8, high: 0.9}
trainer: {stale_steps: 9, structure: network}
confirm: {methods: [codistillation], baselines: tuned}
""",
    "field of one of the methods": """  method: {type: categorical, choices: [okddip, dml]}
trainer: {leader_weight: 2.0}
""",
}


@pytest.mark.parametrize("text", READ.values(), ids=READ)
def test_a_field_that_is_read_by_what_is_trained_is_accepted(tmp_path: Path, text: str) -> None:
    load_space(write(tmp_path, base_with("trainer:\n  epochs: 5\n", "") + text))


def test_a_search_that_an_earlier_version_began_with_an_unread_field_can_be_resumed(
    tmp_path: Path,
) -> None:
    text = base_with("epochs: 5", "method: dml\n  ramp_epochs: 2")
    assert "is not read by dml" in complaint(tmp_path, text)
    (tmp_path / "spec.yaml").write_text(text)
    assert load_saved(tmp_path).trainer["ramp_epochs"] == 2


BOTH = {
    "a searcher beside a sampler": (
        "{searcher: screen, sampler: {type: tpe, n_startup_trials: 6}}",
        "study.sampler: study.searcher has a sampler of its own: write searcher: "
        "{type: screen, sampler: tpe} instead",
    ),
    "a budget beside a number of trials": (
        "{budget: 8h, trials: 20}",
        "study.trials: study.budget decides when the search ends",
    ),
    "a budget beside a timeout": (
        "{budget: 8h, timeout: 9h}",
        "study.timeout: study.budget decides when the search ends",
    ),
}


@pytest.mark.parametrize("both", BOTH)
def test_a_field_of_the_study_without_effect_is_refused_with_its_remedy(tmp_path, both):
    study, words = BOTH[both]
    assert complaint(tmp_path, f"{BASE}study: {study}\n") == f"{tmp_path}/t.yaml:10: {words}" + (
        ", or set study.searcher=null"
        if "searcher" in study
        else ": leave this out, or set study.budget=null"
    )


def test_an_option_without_effect_beside_the_space_is_refused(tmp_path):
    screened = f"{BASE}study: {{searcher: screen}}\n"
    words = complaint(tmp_path, screened, "study.sampler=tpe")
    assert words.startswith("--set study.sampler: ")
    assert "searcher: {type: screen, sampler: tpe}" in words
    budgeted = f"{BASE}study: {{budget: 8h}}\n"
    assert complaint(tmp_path, budgeted, trials=30).startswith("--trials: study.budget decides")


def test_an_option_that_overrules_a_field_of_the_space_removes_it(tmp_path):
    path = write(tmp_path, f"{BASE}study: {{sampler: random, trials: 7, timeout: 9h}}\n")
    assert load_space(path).study.trials == 7
    spec = load_space(path, ["study.searcher=screen"], budget="8h")
    assert spec.study.proposer.type == "gp"
    assert not {"sampler", "trials", "timeout"} & spec.to_plain()["study"].keys()
    assert load_space(write(tmp_path, spec.to_yaml())) == spec


def test_a_search_that_an_earlier_version_saved_with_both_is_resumed(tmp_path):
    text = f"{BASE}study: {{searcher: screen, sampler: tpe, budget: 8h, trials: 20}}\n"
    (tmp_path / "spec.yaml").write_text(text)
    assert load_saved(tmp_path).study.proposer.type == "gp"
    with pytest.raises(UserError, match="--set study.sampler: "):
        load_saved(tmp_path, ["study.sampler=tpe"])


def test_baselines_with_searches_of_their_own_are_refused_beside_a_budget(tmp_path):
    text = f"{BASE}study: {{budget: 8h}}\nconfirm: {{baselines: tuned}}\n"
    assert "t.yaml:11: confirm.baselines: tuned: " in complaint(tmp_path, text)
