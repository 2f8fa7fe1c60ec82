"""The two errors of the library: a hyperparameter misused, and a training that diverged."""

from __future__ import annotations


class HyperparameterError(ValueError):
    """A hyperparameter, or the code around it, is used in a way that cannot be tuned by gradient.

    The message names the hyperparameter, the function in which it was met and what to write
    instead.
    """


class TrainingDivergedError(ArithmeticError):
    """A loss became NaN or infinite.

    It is raised before the optimizer applies the offending gradient, so the weights and the
    hyperparameters are the last finite ones. Give ``study.optimize(...,
    catch=(TrainingDivergedError,))`` to record the trial as failed and go on with the next.
    """
