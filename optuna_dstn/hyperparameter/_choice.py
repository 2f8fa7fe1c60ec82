"""A choice between functions of the training data, tuned by gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from optuna.trial import BaseTrial
import torch
from torch import Tensor, nn

from optuna_dstn._errors import described
from optuna_dstn._experimental import experimental


Option = Callable[[Tensor], Tensor]


@runtime_checkable
class SuggestsProbabilities(Protocol):
    """A trial that suggests a probability for each option of a choice, instead of one option."""

    def suggest_probabilities(self, name: str, options: Sequence[str]) -> dict[str, float]:
        """Return the probability of each option, by its name; they sum to 1."""


@experimental("0.1.0")
def choice(trial: BaseTrial, name: str, options: Mapping[str, Option | None]) -> Choice:
    """Suggest which of several functions training uses: an augmentation, a kind of noise.

    Under a plain trial this is ``trial.suggest_categorical(name, list(options))``. Under a trial of
    a Δ-STN study each option has a probability, which is tuned by gradient, and each example of a
    batch draws its own option. The probabilities are the softmax of unconstrained numbers, one for
    each option. The final value of the parameter is the most probable option.

    Example:
        >>> augment = optuna_dstn.choice(  # doctest: +SKIP
        ...     trial, "augment", {"none": None, "noise": Noise(0.3), "cutout": Cutout(1, 8)}
        ... )
        >>> model = nn.Sequential(augment, net)  # doctest: +SKIP

    Args:
        trial: The trial that the objective got.
        name: The name of the parameter. The hyperparameters are the probabilities of the options,
            named ``"name=option"``.
        options: At least two functions or modules by name. Each takes a tensor of shape (B, ...)
            and returns one of the same shape; ``None`` returns the tensor unchanged. Options may
            have hyperparameters of their own.

    Returns:
        A module for the model. Outside training it returns its input unchanged.

    Raises:
        TypeError: If ``trial`` is not a trial, or ``options`` is not a mapping of functions.
        ValueError: If there are fewer than two options.
    """
    if not isinstance(trial, (BaseTrial, SuggestsProbabilities)):
        raise TypeError(
            f"choice got {described(trial)} for a trial: give the trial that the objective got, "
            f"choice(trial, {name!r}, options)."
        )
    _require_options(name, options)
    if isinstance(trial, SuggestsProbabilities):
        return Choice(name, options, trial.suggest_probabilities(name, list(options)))
    chosen = trial.suggest_categorical(name, list(options))
    return Choice(name, options, {option: float(option == chosen) for option in options})


class Choice(nn.Module):
    """A module that draws an option for each example and applies it; outside training, none.

    Args:
        name: The name of the parameter, for messages.
        options: Functions of a tensor, by name; ``None`` returns the tensor unchanged.
        probabilities: A number or hyperparameter for each option; they sum to 1.

    Attributes:
        name: The name of the parameter.
        probabilities: The probability of each option.
        options: The options that are modules.
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
        # A module list, so that train(), eval() and to() of the model reach the modules.
        self.options = nn.ModuleList(f for f in options.values() if isinstance(f, nn.Module))

    def forward(self, input: Tensor) -> Tensor:
        """Return the input with each example changed by its own option.

        Args:
            input: A tensor of shape (B, ...).

        Returns:
            A tensor of the same shape.

        Raises:
            ValueError: If an option returns another shape.
        """
        if not self.training:
            return input
        ones = torch.ones(input.shape[0], device=input.device)
        # Shape (B, options): under a Δ-STN trial each example has probabilities of its own.
        probabilities = torch.stack([ones * p for p in self.probabilities.values()], dim=1)
        drawn = torch.multinomial(probabilities, 1).view(-1, *[1] * (input.ndim - 1))
        output = input
        # Every option gets the whole batch, so that example b keeps row b and its perturbation.
        for index, (option, function) in enumerate(self._functions.items()):
            if function is None or self._is_impossible(option):
                continue
            changed = function(input.clone())  # an option may work in place
            if changed.shape != input.shape:
                raise ValueError(
                    f"Option {option!r} of choice {self.name!r} turned shape "
                    f"{tuple(input.shape)} into {tuple(changed.shape)}: an option must keep the "
                    "shape, as each example may draw another one."
                )
            output = torch.where(drawn == index, changed, output)
        return output

    def _is_impossible(self, option: str) -> bool:
        """Whether no example can draw an option, as under a plain trial that chose another one."""
        probability = self.probabilities[option]
        # A hyperparameter of value 0 has another value for each example.
        return type(probability) is float and probability == 0

    def extra_repr(self) -> str:
        """Return the name and the options, for ``print(model)``."""
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
