"""A categorical parameter as the probabilities of its options, which gradients can change."""

from __future__ import annotations

from collections.abc import Mapping

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution


class OptionProbability(FloatDistribution):
    """The range [0, 1] of the probability of one option of a categorical parameter.

    Args:
        parameter: The name of the categorical parameter.
        option: The option, as text.

    Attributes:
        parameter: The name of the categorical parameter.
        name: The name of the probability, ``"parameter=option"``.
    """

    def __init__(self, parameter: str, option: str) -> None:
        super().__init__(0.0, 1.0)
        self.parameter = parameter
        self.name = f"{parameter}={option}"


def relaxed(
    parameter: str, distribution: CategoricalDistribution, start: object
) -> dict[str, tuple[OptionProbability, float]]:
    """Return the distribution and the start value of each option's probability, by its name.

    The suggested option starts twice as probable as each of the others.

    Example:
        >>> options = relaxed("c", CategoricalDistribution(["a", "b"]), start="b")
        >>> {name: round(probability, 2) for name, (_, probability) in options.items()}
        {'c=a': 0.33, 'c=b': 0.67}
    """
    options = [OptionProbability(parameter, str(option)) for option in distribution.choices]
    share = 1 / (len(options) + 1)
    return {
        option.name: (option, 2 * share if choice == start else share)
        for option, choice in zip(options, distribution.choices, strict=True)
    }


def option_of(name: str, distributions: Mapping[str, BaseDistribution]) -> OptionProbability | None:
    """Return the option of a trial's categorical parameters whose probability has this name."""
    for parameter, distribution in distributions.items():
        if isinstance(distribution, CategoricalDistribution):
            for choice in distribution.choices:
                option = OptionProbability(parameter, str(choice))
                if option.name == name:
                    return option
    return None


def most_probable(
    parameter: str, distribution: CategoricalDistribution, values: Mapping[str, float]
) -> str | None:
    """Return the most probable option; ``None`` if ``values`` has no probability of an option.

    Args:
        parameter: The name of the categorical parameter.
        distribution: The distribution of the parameter.
        values: Probabilities by their names, ``"parameter=option"``, and other numbers.
    """
    probabilities = {
        str(option): values.get(OptionProbability(parameter, str(option)).name)
        for option in distribution.choices
    }
    known = {option: p for option, p in probabilities.items() if p is not None}
    return max(known, key=known.__getitem__) if known else None


def parameter_names(distributions: Mapping[str, BaseDistribution]) -> tuple[str, ...]:
    """Return the names of a trial's parameters behind hyperparameters: each choice once."""
    names = (
        distribution.parameter if isinstance(distribution, OptionProbability) else name
        for name, distribution in distributions.items()
    )
    return tuple(dict.fromkeys(names))


def columns_of_choices(distributions: Mapping[str, BaseDistribution]) -> list[list[int]]:
    """Return, for each choice, the positions of its options among the hyperparameters."""
    columns: dict[str, list[int]] = {}
    for column, distribution in enumerate(distributions.values()):
        if isinstance(distribution, OptionProbability):
            columns.setdefault(distribution.parameter, []).append(column)
    return list(columns.values())
