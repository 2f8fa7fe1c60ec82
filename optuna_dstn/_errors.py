"""The errors of the package, its messages for several places, and its logger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import optuna


# A child of Optuna's logger, so that optuna.logging.set_verbosity applies to it.
logger = optuna.logging.get_logger("optuna.dstn")


class HyperparameterError(ValueError):
    """A hyperparameter is used in a way that cannot be tuned by gradient.

    The message names the hyperparameter, the function that reads it, and what to write instead.

    Example:
        >>> try:  # doctest: +SKIP
        ...     study.optimize(objective, n_trials=1)
        ... except optuna_dstn.HyperparameterError as error:
        ...     print(error)
    """


class TrainingDivergedError(ArithmeticError):
    """A loss, or its gradient, became NaN or infinite.

    The error is raised before an optimizer applies the gradient, so the weights and the
    hyperparameters are still finite. Running averages, as those of batch normalisation, may hold
    NaN already; the message names them. It names a batch that is empty or holds NaN too.

    Example:
        Record the trial as failed, and continue with the next one:

        >>> study.optimize(  # doctest: +SKIP
        ...     objective, n_trials=20, catch=(optuna_dstn.TrainingDivergedError,)
        ... )
    """


class StorageAwayError(RuntimeError):
    """The storage of a study has not answered for a minute.

    Its trial stays running there. The message names the storage, and the checkpoint if there is
    one: :func:`optuna_dstn.retry_interrupted` lets a later trial go on from there.
    """


def unknown_hyperparameter(names: Iterable[str], where: str) -> HyperparameterError:
    """Return the error for hyperparameters that the Tuner's trial did not suggest.

    Args:
        names: The names of the hyperparameters.
        where: The function that reads them.
    """
    listed = ", ".join(repr(name) for name in sorted(names))
    return HyperparameterError(
        f"Hyperparameter {listed}, read by {where}, was not suggested by the trial of this Tuner, "
        "or not before the Tuner was made. Build the model and the optimizer inside the "
        "objective, from the same trial that the Tuner gets, and then the Tuner."
    )


def late_hyperparameter(formula: str, where: str) -> HyperparameterError:
    """Return the error for hyperparameters that the first training step did not read.

    Args:
        formula: The formula of the hyperparameters, quoted.
        where: The function that reads them.
    """
    return HyperparameterError(
        f"Hyperparameter {formula} first reaches {where} after the first step, when what is tuned "
        "by gradient has been settled. Let it take part in the first step (for instance at a "
        "strength near zero), or write float(...) around it to leave it to the study's sampler."
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).partition("\n")[0]


def shortened(names: Sequence[str], at_most: int) -> str:
    """Return the first names, and how many are left: ``"a, b and 3 more"``."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def described(argument: object) -> str:
    """Return a short description of a wrong argument, for a message: its value or its type."""
    if argument is None or isinstance(argument, (str, int, float)):
        return repr(argument)
    if isinstance(argument, type):
        return f"the class {argument.__name__}"
    return f"a {type(argument).__name__}"


def missing_framework(name: str, error: ImportError) -> ImportError:
    """Return the error for a module of :mod:`optuna_dstn.integration` without its framework.

    Args:
        name: The name of the module, of the framework, and of the extra that installs it.
        error: What the import of the framework has raised.
    """
    needed = error.name or name
    return ImportError(
        f"optuna_dstn.integration.{name} needs {needed}: pip install 'optuna-dstn[{name}]'."
    )
