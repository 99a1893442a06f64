"""The errors that a user of this package may cause or has to know of.

Each is defined in the module that raises it; whoever wants them all catches `TrainerError`:

- ``trainer.config.strict.ConfigError``: a configuration that cannot be used
- ``trainer.data.images.DataError``: images that are missing, damaged or too few
- ``trainer.engine.checkpoint.CheckpointError``: a state of another version or configuration

  - ``trainer.engine.checkpoint.DamagedCheckpointError``: a state that cannot be read

- ``trainer.engine.trainer.NonFiniteLossError``: a training that diverged
- ``trainer.io.files.LockedError``: a directory that another process works in
- ``trainer.io.yaml.YamlError``: text that is no YAML
- ``trainer.leader.leader.DamagedLeaderError``: a leader that cannot be used
- ``trainer.test_set.OpeningError``: an opening of the test set for other leaders
"""


class TrainerError(Exception):
    """Base class of this package's errors; the message is for a person and needs no traceback.

    Attributes:
        exit_code: Exit status of a command that ends with this error.
        remedy: What usually helps; empty where the message says so, or nothing does.
    """

    exit_code: int = 2
    remedy: str = ""
