"""The two ways a run ends early; `train.py` prints either as one line and leaves with its exit status."""


class UsageError(Exception):
    """What was asked for cannot be done: arguments, data, a checkpoint that does not fit."""

    exit_status = 2


class RunError(Exception):
    """The run itself failed: a full disk, a loss that is no longer finite."""

    exit_status = 1
