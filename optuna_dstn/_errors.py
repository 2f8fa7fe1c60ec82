"""What the library says when something is wrong: two errors, and a logger."""

from __future__ import annotations

from collections.abc import Iterable

import optuna


# A child of Optuna's logger: optuna.logging.set_verbosity governs it.
logger = optuna.logging.get_logger("optuna.dstn")


class HyperparameterError(ValueError):
    """A hyperparameter, or the code around it, is used in a way that cannot be tuned by gradient.

    The message names the hyperparameter, the function in which it was met and what to write
    instead.
    """


class TrainingDivergedError(ArithmeticError):
    """A loss, or its gradient, became NaN or infinite.

    It is raised before an optimizer applies that gradient, so the weights and the hyperparameters
    are still finite. Give ``study.optimize(...,
    catch=(TrainingDivergedError,))`` to record the trial as failed and go on with the next.
    """


def unknown_hyperparameter(names: Iterable[str], where: str) -> HyperparameterError:
    """Return the error for hyperparameters that the Tuner's trial did not suggest.

    Args:
        names: The hyperparameters.
        where: What reads them.
    """
    listed = ", ".join(repr(name) for name in sorted(names))
    return HyperparameterError(
        f"Hyperparameter {listed}, read by {where}, was not suggested by the trial of this Tuner, "
        "or not before the Tuner was made. Build the model and the optimizer inside the "
        "objective, from the same trial that the Tuner gets, and then the Tuner."
    )


def late_hyperparameter(formula: str, where: str) -> HyperparameterError:
    """Return the error for hyperparameters that training did not read in its first step.

    Args:
        formula: Their formula, quoted.
        where: What reads them.
    """
    return HyperparameterError(
        f"Hyperparameter {formula} first reaches {where} after the first step, when what is tuned "
        "by gradient has been settled. Let it take part in the first step (for instance at a "
        "strength near zero), or write float(...) around it to leave it to the study's sampler."
    )


def first_line(error: Exception) -> str:
    """Return what an error says first."""
    return str(error).partition("\n")[0]
