"""A choice between functions that only training uses, tuned by gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from optuna.trial import BaseTrial
import torch
from torch import Tensor, nn


Option = Callable[[Tensor], Tensor]


@runtime_checkable
class SuggestsProbabilities(Protocol):
    """A trial that gives each option of a choice a probability, instead of choosing one option."""

    def suggest_probabilities(self, name: str, options: Sequence[str]) -> dict[str, float]:
        """Return the probability of each option, by its name."""


def choice(trial: BaseTrial, name: str, options: Mapping[str, Option | None]) -> Choice:
    """Suggest which of several functions to use in training: an augmentation, a kind of noise.

    Under a plain trial this is ``trial.suggest_categorical(name, list(options))``. Under a trial of
    a Δ-STN study each option has a probability, tuned by gradient; every example draws its own
    option, and the parameter ends as the most probable one.

    Example:
        >>> augment = optuna_dstn.choice(  # doctest: +SKIP
        ...     trial, "augment", {"none": None, "noise": Noise(0.3), "cutout": Cutout(1, 8)}
        ... )
        >>> model = nn.Sequential(augment, net)  # doctest: +SKIP

    Args:
        trial: The trial that the objective got.
        name: Of the parameter. The probabilities are called ``"name=option"``.
        options: What to choose from, by name: functions or modules that take a tensor, shape
            (B, ...), and return one of the same shape; ``None`` leaves it as it is. They may hold
            hyperparameters themselves.

    Returns:
        A module, to be put into the model.

    Raises:
        TypeError: If the options are no mapping of functions.
        ValueError: If there are fewer than two.
    """
    _require_options(name, options)
    if isinstance(trial, SuggestsProbabilities):
        return Choice(name, options, trial.suggest_probabilities(name, list(options)))
    chosen = trial.suggest_categorical(name, list(options))
    return Choice(name, options, {option: float(option == chosen) for option in options})


class Choice(nn.Module):
    """Applies to each example of a batch an option drawn for it; outside training, none.

    Args:
        name: For messages.
        options: Functions of a tensor, by name; ``None`` leaves it as it is.
        probabilities: Numbers or hyperparameters, one for each option; they sum to 1.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Option | None],
        probabilities: Mapping[str, float],
    ) -> None:
        super().__init__()
        self.name = name
        self.probabilities = dict(probabilities)
        self._functions = dict(options)
        # So that train(), eval() and to() reach them.
        self.options = nn.ModuleList(f for f in options.values() if isinstance(f, nn.Module))

    def forward(self, input: Tensor) -> Tensor:
        """Return the input with each example changed by its own option.

        Args:
            input: Shape (B, ...).

        Returns:
            The same shape.

        Raises:
            ValueError: If an option returns another shape.
        """
        if not self.training:
            return input
        ones = torch.ones(input.shape[0], device=input.device)
        chances = torch.stack([ones * p for p in self.probabilities.values()], dim=1)
        drawn = torch.multinomial(chances, 1).view(-1, *[1] * (input.ndim - 1))
        output = input
        # All of them see the whole batch: each example keeps its place, and with it its values.
        for index, (option, function) in enumerate(self._functions.items()):
            if function is None or self._is_out(option):
                continue
            changed = function(input.clone())  # it may work in place
            if changed.shape != input.shape:
                raise ValueError(
                    f"Option {option!r} of choice {self.name!r} turned shape "
                    f"{tuple(input.shape)} into {tuple(changed.shape)}: an option must keep the "
                    "shape, as each example may draw another one."
                )
            output = torch.where(drawn == index, changed, output)
        return output

    def _is_out(self, option: str) -> bool:
        """Whether no example can draw an option, as under a plain trial that chose another."""
        number = self.probabilities[option]
        return type(number) is float and number == 0

    def extra_repr(self) -> str:
        """Return name and options, for ``print(model)``."""
        return f"{self.name!r}, {', '.join(self.probabilities)}"


def _require_options(name: str, options: object) -> None:
    if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
        raise TypeError(
            f"choice(trial, {name!r}, options) takes a dictionary of functions by name, such as "
            '{"none": None, "noise": add_noise}.'
        )
    for option, function in options.items():
        if function is not None and not callable(function):
            raise TypeError(
                f"Option {option!r} of choice {name!r} is a {type(function).__name__}: give a "
                "function or module that takes and returns a tensor, or None. For options that "
                "are no functions of the data use trial.suggest_categorical."
            )
    if len(options) < 2:
        raise ValueError(f"Choice {name!r} needs two options or more to choose from.")
