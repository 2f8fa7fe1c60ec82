"""A categorical parameter as the probabilities of its options, which gradients can change."""

from __future__ import annotations

from collections.abc import Mapping

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution


class OptionProbability(FloatDistribution):
    """The probability of one option of a categorical parameter.

    Args:
        parameter: The categorical parameter.
        option: The option, as text.

    Attributes:
        parameter: As given.
        name: ``"parameter=option"``.
    """

    def __init__(self, parameter: str, option: str) -> None:
        super().__init__(0.0, 1.0)
        self.parameter = parameter
        self.name = f"{parameter}={option}"


def relaxed(
    parameter: str, distribution: CategoricalDistribution, start: object
) -> dict[str, tuple[OptionProbability, float]]:
    """Return the probability of each option at the start, by its name.

    The suggested option begins twice as probable as each of the others.
    """
    options = [OptionProbability(parameter, str(option)) for option in distribution.choices]
    share = 1 / (len(options) + 1)
    return {
        option.name: (option, 2 * share if choice == start else share)
        for option, choice in zip(options, distribution.choices, strict=True)
    }


def option_of(name: str, distributions: Mapping[str, BaseDistribution]) -> OptionProbability | None:
    """Return the option that ``name`` is the probability of, given a trial's distributions."""
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
    """Return the option of the largest probability; ``None`` if ``values`` is not about them."""
    chances = {
        option: values.get(OptionProbability(parameter, str(option)).name)
        for option in distribution.choices
    }
    known = {str(option): chance for option, chance in chances.items() if chance is not None}
    return max(known, key=known.__getitem__) if known else None


def parameter_names(distributions: Mapping[str, BaseDistribution]) -> tuple[str, ...]:
    """Return the parameters that hyperparameters belong to: a choice once, others as they are."""
    return tuple(dict.fromkeys(_owner(name, d) for name, d in distributions.items()))


def columns_of_choices(distributions: Mapping[str, BaseDistribution]) -> list[list[int]]:
    """Return, for each choice, where its options stand among the hyperparameters."""
    columns: dict[str, list[int]] = {}
    for column, distribution in enumerate(distributions.values()):
        if isinstance(distribution, OptionProbability):
            columns.setdefault(distribution.parameter, []).append(column)
    return list(columns.values())


def _owner(name: str, distribution: BaseDistribution) -> str:
    return distribution.parameter if isinstance(distribution, OptionProbability) else name
