"""The weight decay of the optimizer as a term of the training loss.

Coupled decay adds the gradient of the term (wd/2)·‖w‖² to the gradient of the loss.

Decoupled decay (Loshchilov & Hutter, 2019, "Decoupled Weight Decay Regularization") is a step of
its own beside the gradient step. In the Adam family the expected step is

    Δw = −lr·(∇L / P + wd·w),     P = √v̂ + eps,

with the running mean v̂ of the squared gradient. The step vanishes where ∇L + wd·P⊙w = 0, as if the
loss had the term (wd/2)·Σ P_ij·w_ij² with P fixed at its current value. This leaves out three
things: that P depends on w, that P is correlated with the gradient, and that the running means have
not settled in the first steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import (
    ASGD,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
)

from optuna_dstn._errors import HyperparameterError, unknown_hyperparameter
from optuna_dstn.hyperparameter._number import Hyperparameter
from optuna_dstn.response._delta import Deltas
from optuna_dstn.rules import Decay, mean_decay
from optuna_dstn.tensors._several_optimizers import owner_of


_COUPLED = (ASGD, SGD, Adadelta, Adagrad, Adam, Adamax, NAdam, RAdam, RMSprop)
_DECOUPLED = (Adam, NAdam)  # AdamW is an Adam


class WeightDecay:
    """Finds the hyperparameters that are a weight decay, and computes the decay as a loss.

    The optimizer's groups then hold plain numbers, as its checkpoints should.

    Args:
        optimizer: The user's optimizer.

    Raises:
        HyperparameterError: If a hyperparameter is the weight decay of an optimizer whose decay is
            not known as a term of the loss.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._numbers: dict[int, Hyperparameter] = {}  # by the index of the group
        self._take_hyperparameters()

    def _take_hyperparameters(self) -> None:
        """Take the hyperparameters out of groups that were added since the last call."""
        for index, group in enumerate(self._optimizer.param_groups):
            number = group.get("weight_decay")
            if not isinstance(number, Hyperparameter):
                continue
            if not self._is_term(group):
                decoupled = "decoupled " if group.get("decoupled_weight_decay") else ""
                raise HyperparameterError(
                    f"Hyperparameter {str(number.expression)!r} is the {decoupled}weight decay of "
                    f"{type(owner_of(group, self._optimizer)).__name__}, whose decay is not known "
                    "as a term of the loss, so it has no rule. Use SGD, Adam, AdamW or RMSprop, or "
                    "add optuna_dstn.l2_penalty(model.parameters(), h) to the loss in its place, "
                    "or write float(...) around it to leave it to the study's sampler."
                )
            self._numbers[index] = number

    def _is_term(self, group: Mapping[str, Any]) -> bool:
        known = _DECOUPLED if group.get("decoupled_weight_decay") else _COUPLED
        return isinstance(owner_of(group, self._optimizer), known)

    @property
    def place(self) -> str:
        """The argument that a weight decay is, for messages: ``SGD(weight_decay=)``."""
        groups = [self._optimizer.param_groups[index] for index in self._numbers]
        kinds = {type(owner_of(group, self._optimizer)).__name__ for group in groups}
        return ", ".join(f"{kind}(weight_decay=)" for kind in sorted(kinds))

    @property
    def names(self) -> frozenset[str]:
        """Names of the hyperparameters on which a weight decay depends."""
        return frozenset().union(*(number.names for number in self._numbers.values()))

    @property
    def parameters(self) -> dict[str, list[Tensor]]:
        """For each of :attr:`names`, the parameters whose decay depends on it."""
        found: dict[str, list[Tensor]] = {name: [] for name in self.names}
        for index, number in self._numbers.items():
            for name in number.names:
                found[name] += self._optimizer.param_groups[index]["params"]
        return found

    def set(self, values: Mapping[str, float]) -> None:
        """Give all groups of the optimizer, also those added since, their current weight decay.

        Raises:
            HyperparameterError: If a hyperparameter has no value, or the decay of a new group has
                no rule.
        """
        self._take_hyperparameters()
        unknown = self.names - values.keys()
        if unknown:
            raise unknown_hyperparameter(unknown, self.place)
        for index, number in self._numbers.items():
            value = float(number.expression.evaluate(values))
            self._optimizer.param_groups[index]["weight_decay"] = value

    def response_loss(
        self, deltas: Deltas, perturbed: Mapping[str, Tensor | float]
    ) -> Tensor | float:
        """Return the decay of the responding parameters at Δ, as a term of the training loss.

        The term is the mean over the examples b of (wd_b/2)·Σ_ij P_ij·(w + diag(u_b)·R)_ij², with
        P = 1 for coupled decay. It leaves out (wd_b/2)·Σ_ij P_ij·w_ij², which is constant in Δ,
        unless the pass trains the weights too.

        Args:
            deltas: Δ of each responding parameter: u_b (its gate) and R (its direction).
            perturbed: The values of each hyperparameter: one per example, shape (B,), or one
                number for all examples.

        Returns:
            A scalar; the number 0 if no responding parameter decays.
        """
        own: Tensor | float = 0.0
        decays: list[Decay] = []
        for index, group in enumerate(self._optimizer.param_groups):
            number = self._numbers.get(index)
            decay = group.get("weight_decay", 0.0)
            if number is not None:
                decay = number.expression.evaluate(perturbed)
            elif not decay or not self._is_term(group):
                continue
            if group.get("maximize"):  # the optimizer then maximises L − (wd/2)·‖w‖²
                decay = -decay
            for parameter in group["params"]:
                terms = deltas.of(parameter)
                if not terms:
                    continue
                metric = None
                if group.get("decoupled_weight_decay"):
                    state = owner_of(group, self._optimizer).state.get(parameter)
                    if not state:  # the optimizer decays only what has had a gradient
                        continue
                    metric = _preconditioner(state, group)
                weight = deltas.weight(parameter)
                decays.append(Decay(decay / 2, weight, terms, metric))
                if deltas.trains_weights:
                    square = weight.square()
                    square = (square if metric is None else metric * square).sum()
                    own = own + (decay / 2 * square).mean()
        return own + mean_decay(decays)

    def require_terms(self) -> None:
        """Check that the decay of every group is known as a term of the loss.

        Raises:
            HyperparameterError: If the decay of a group is not.
        """
        for group in self._optimizer.param_groups:
            if group.get("weight_decay") and not self._is_term(group):
                raise HyperparameterError(
                    "TunerConfig(method='stn') takes weight decay as a term of the loss, and that "
                    f"of {type(self._optimizer).__name__} is not known as one. Use SGD, Adam, "
                    "AdamW or RMSprop, or weight_decay=0 and optuna_dstn.l2_penalty(...) in the "
                    "loss, or another method."
                )

    @contextmanager
    def as_term(self, deltas: Deltas) -> Iterator[None]:
        """Leave the decay of responding parameters out of the optimizer's steps inside.

        This serves a training whose loss has :meth:`response_loss` as a term. The other parameters
        of a group decay as usual: they form a group of their own meanwhile.
        """
        groups = self._optimizer.param_groups
        before = [
            (group, group["params"], group["weight_decay"])
            for group in groups
            if group.get("weight_decay") and any(p in deltas for p in group["params"])
        ]
        count = len(groups)
        try:
            for group, parameters, _ in before:
                others = [p for p in parameters if p not in deltas]
                if others:
                    groups.append({**group, "params": others})
                    group["params"] = [p for p in parameters if p in deltas]
                group["weight_decay"] = 0.0
            yield
        finally:
            del groups[count:]
            for group, parameters, decay in before:
                group["params"], group["weight_decay"] = parameters, decay


@torch.no_grad()
def _preconditioner(state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor:
    """Return P = √v̂ + eps of the last step of an Adam, with v̂ = v/(1 − β₂ᵗ).

    With amsgrad v is the largest v so far.
    """
    square = state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"]
    step = torch.as_tensor(state["step"], dtype=torch.float64)
    return (square / (1 - group["betas"][1] ** step)).sqrt() + group["eps"]  # type: ignore[no-any-return]
