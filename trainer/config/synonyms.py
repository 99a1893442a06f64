"""Words of other tools for the fields and values here: a better hint than edit distance."""

SYNONYMS: dict[str, str] = {
    # a run
    "lr": "learning_rate lrate initial_lr init_lr base_lr lr0 max_lr eta step_size",
    "batch_size": "bs batch batchsize train_batch_size minibatch_size mini_batch_size",
    "epochs": "num_epochs n_epochs max_epochs epoch training_epochs",
    "weight_decay": "wd l2 l2_reg l2_penalty decay regularization regularisation",
    "momentum": "beta mom sgd_momentum",
    "lr_schedule": "scheduler lr_scheduler schedule learning_rate_schedule",
    "lr_decay": "gamma lr_gamma decay_rate decay_factor lr_decay_rate",
    "lr_milestones": "milestones decay_epochs lr_steps lr_decay_epochs",
    "label_smoothing": "smoothing ls",
    "model": "arch architecture network net backbone model_name",
    "width": "width_mult width_multiplier wide widen_factor",
    "method": "algorithm loss distillation",
    "num_peers": "peers n_peers num_students num_branches num_auxiliary",
    "temperature": "t tau temp kd_t kd_temperature",
    "attention_dim": "attn_dim proj_dim",
    "peer_weight": "alpha lambda1",
    "leader_weight": "beta_weight lambda2 kd_weight",
    "ramp_epochs": "ramp rampup ramp_up rampup_epochs",
    "num_threads": "threads n_threads",
    # images
    "root": "path dir folder data_dir data_path data_root directory",
    "image_size": "size img_size resolution image_resolution input_size",
    "validation": "val valid val_size val_fraction val_split validation_split valid_fraction",
    "train_limit": "train_size num_train subset limit max_train",
    "pad": "padding crop_padding",
    "flip": "hflip horizontal_flip",
    "workers": "num_workers n_workers loader_workers",
    # a space
    "search": "parameters params space search_space hyperparameters param_space hparams sweep",
    "trainer": "training fixed config train constants",
    "data": "dataset datasets",
    "objective": "metric goal target",
    "enqueue": "points_to_evaluate initial_points initial_params warm_start",
    "name": "project experiment study_name experiment_name dataset",
    # a study
    "trials": "num_samples n_trials num_trials max_trials max_num_trials run_cap n_iter runs",
    "timeout": "time_limit max_time max_duration walltime",
    "budget": "time_budget time_budget_s total_time",
    "sampler": "algorithm search_alg method tuner search_algorithm optimizer",
    "pruner": "scheduler early_terminate early_stopping early_stop stopper",
    "seed": "random_state random_seed rng_seed",
    "max_failures": "max_errors max_failed max_failed_trials",
    # resources
    "max_concurrent": "max_concurrent_trials n_jobs parallel parallelism num_parallel concurrency",
    "gpus_per_trial": "num_gpus gpus gpu n_gpus",
    "cpus_per_trial": "num_cpus cpus cpu n_cpus cores",
    "baselines": "rivals",
    # a range
    "low": "min lower minimum lo lower_bound start from a",
    "high": "max upper maximum hi upper_bound end stop to b",
    "choices": "values choice options categories value_list candidates",
    "log": "log_scale logscale log_uniform scale",
    "step": "q quantum increment stride interval",
    "type": "distribution kind dtype parametertype",
    "when": "condition conditions if only_if",
    # values
    "tpe": "bayes bayesian hyperopt bohb optuna",
    "gp": "bo gaussian_process botorch skopt",
    "random": "random_search randomsearch rs",
    "qmc": "sobol halton quasi_random",
    "grid": "grid_search gridsearch",
    "successive_halving": "asha sha asynchronous_successive_halving",
    "hyperband": "bohb_pruner async_hyperband",
    "median": "median_stopping medianstop",
    "cosine": "cosine_annealing cosineannealing cosineannealinglr cos",
    "multistep": "step multi_step steplr multisteplr",
    "float": "double real uniform loguniform continuous number",
    "int": "integer randint discrete whole",
    "categorical": "category choice choices enum ordinal bool",
}
"""Name here to the words of others for it; which name is meant depends on those that may stand."""


def meant_by(word: str) -> list[str]:
    """Return the names here that a word of another tool stands for."""
    plain = word.strip("_").lower().replace("-", "_").replace(" ", "_")
    return [name for name, others in SYNONYMS.items() if plain in (name, *others.split())]
