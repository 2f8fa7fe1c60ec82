"""The format of the Tuner's checkpoints, which take the place of pickling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from optuna_dstn._errors import HyperparameterError, shortened


STATE_VERSION = 3  # of the format of Tuner.state_dict()

_DIFFERENCES_SHOWN = 5


def require_same_format(state: Mapping[str, Any], method: str) -> None:
    """Check the version and the method of a saved state."""
    version = state.get("version")
    if version != STATE_VERSION:
        found = "no version" if version is None else f"version {version!r}"
        raise ValueError(
            f"The state has {found}, and this optuna_dstn reads version {STATE_VERSION}. Give "
            "Tuner.load_state_dict(...) what Tuner.state_dict() of the same release returned."
        )
    if state["method"] != method:
        raise ValueError(
            f"The state was saved by a Tuner that trains by {state['method']!r}, and this one "
            f"trains by {method!r}. Resume under a study of the same kind, with the same "
            "TunerConfig."
        )


def parts_of(
    suggested: Mapping[str, BaseDistribution], model: nn.Module, optimizer: Optimizer
) -> dict[str, Any]:
    """Return what a state belongs to: hyperparameters with ranges, parameters, and optimizer."""
    return {
        "hyperparameters": {
            name: distribution_to_json(range_) for name, range_ in suggested.items()
        },
        "parameters": {
            name: "no shape yet" if is_lazy(parameter) else f"shape {tuple(parameter.shape)}"
            for name, parameter in model.named_parameters()
        },
        "optimizer": type(optimizer).__name__,
        "groups": [len(group["params"]) for group in optimizer.param_groups],
    }


def require_same_parts(state: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Check that two results of :func:`parts_of`, a saved and the present one, are alike.

    Raises:
        HyperparameterError: If the objective suggests other hyperparameters.
        ValueError: If the model or the optimizer is another one. Both messages name what differs.
    """
    hyperparameters = _differences("hyperparameter", state, present, "trial")
    if hyperparameters:
        raise HyperparameterError(_unfit(hyperparameters))
    others = _differences("parameter", state, present, "model")
    for key, what in ("optimizer", "optimizer"), ("groups", "sizes of the optimizer's groups"):
        if state[key] != present[key]:
            others.append(f"the {what} was {state[key]} and is {present[key]}")
    if others:
        raise ValueError(_unfit(others))


def _differences(
    what: str, state: Mapping[str, Any], present: Mapping[str, Any], owner: str
) -> list[str]:
    before, now = state[f"{what}s"], present[f"{what}s"]
    found = [f"{what} {name!r} is not in this {owner}" for name in before if name not in now]
    found += [
        f"{what} {name!r} had {before[name]} and has {now[name]}"
        for name in before
        if name in now
        and before[name] != now[name]
        and "no shape yet" not in (before[name], now[name])
    ]
    return found + [f"{what} {name!r} is new" for name in now if name not in before]


def _unfit(differences: list[str]) -> str:
    return (
        "The saved state belongs to another training: "
        f"{shortened(differences, _DIFFERENCES_SHOWN)}. Resume with the objective that saved it, "
        "or start anew without the state."
    )


def refuse_to_pickle(tuner: object) -> Any:
    """Refuse to pickle or copy a Tuner, whose steps belong to one model and one optimizer."""
    raise TypeError(
        "A Tuner cannot be pickled or copied: it trains one model by one optimizer, and holds what "
        "their steps need. To continue the training elsewhere, save the state_dict() of Tuner, "
        "model and optimizer, make the three anew there, and load the states."
    )
