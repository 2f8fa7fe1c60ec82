"""Slow, obviously right float64 references, and small helpers of the engine's tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import optuna_dstn
from optuna_dstn._batch_layout import BatchLayout
from optuna_dstn._delta import Delta, Deltas
from optuna_dstn._linearize import at_response
from optuna_dstn._passes import PerturbedValues, RespondingValidation
from optuna_dstn._space import Columns


class Explicit:
    """U and R of every parameter of a model, and ε, as separate float64 tensors.

    Args:
        model: All its parameters respond.
        names: Those of its parameters that respond.
        examples: B.
        hyperparameters: h.
        scale: Multiplies U; 0 gives Δ = 0.
    """

    def __init__(
        self,
        model: nn.Module,
        names: list[str],
        examples: int,
        hyperparameters: int,
        scale: float = 1.0,
    ) -> None:
        parameters = dict(model.named_parameters())
        self.parameters = {name: parameters[name] for name in names}
        self.epsilon = torch.randn(examples, hyperparameters).requires_grad_()
        self.gains = {
            n: (scale * torch.randn(p.shape[0], hyperparameters)).requires_grad_()
            for n, p in self.parameters.items()
        }
        self.directions = {
            n: torch.randn(p.shape).requires_grad_() for n, p in self.parameters.items()
        }

    def tensors(self) -> list[Tensor]:
        return [self.epsilon, *self.gains.values(), *self.directions.values()]

    def deltas(self, *, linear: bool = True, trains_weights: bool = False) -> Deltas:
        """What the engine takes."""
        terms = {
            id(p): [Delta(self.epsilon @ self.gains[n].T, self.directions[n])]
            for n, p in self.parameters.items()
        }
        layout = BatchLayout(len(self.epsilon))
        return Deltas(terms, layout, linear=linear, trains_weights=trains_weights)

    def change(self, name: str, example: int) -> Tensor:
        """Δp of one example, with an explicit diagonal matrix: diag(Uε)·R."""
        gate = self.gains[name] @ self.epsilon[example]
        direction = self.directions[name]
        return (torch.diag(gate) @ direction.reshape(len(gate), -1)).reshape(direction.shape)


def linearised_by_loops(model: nn.Sequential, x: Tensor, explicit: Explicit) -> Tensor:
    """f(x; w) + d/dt f(x; w + tΔ) at t = 0, every layer run example by example with its own Δ.

    The derivative is taken in reverse mode twice, so nothing here uses forward-mode
    differentiation, and it can be differentiated in U, R and ε.
    """
    copied = copy.deepcopy(model).requires_grad_(False)  # running averages are counted in the copy
    t = torch.zeros((), requires_grad=True)
    value = _moved_by_loops(copied, x, explicit, t)
    v = torch.zeros_like(value, requires_grad=True)
    (pulled_back,) = torch.autograd.grad(value, t, v, create_graph=True)
    (pushed_forward,) = torch.autograd.grad(pulled_back, v, create_graph=True)
    return value.detach() + pushed_forward


def moved_by_loops(model: nn.Sequential, x: Tensor, explicit: Explicit) -> Tensor:
    """f(x; w + Δ), every layer run example by example with its own Δ.

    Normalisation layers, if they respond, normalise the batch as a whole. Running averages are
    counted.
    """
    return _moved_by_loops(model, x, explicit, torch.ones(()))


def _moved_by_loops(model: nn.Sequential, x: Tensor, explicit: Explicit, t: Tensor) -> Tensor:
    y = x
    for index, layer in enumerate(model):
        own = dict(layer.named_parameters())
        mine = [name for name in own if f"{index}.{name}" in explicit.gains]
        if not mine:
            y = layer(y)
            continue
        if isinstance(layer, nn.BatchNorm1d):
            one, zero = torch.ones_like(layer.weight), torch.zeros_like(layer.bias)
            y = functional_call(layer, {"weight": one, "bias": zero}, (y,))
        rows = []
        for b in range(len(x)):
            weights = {
                name: p + t * explicit.change(f"{index}.{name}", b) if name in mine else p
                for name, p in own.items()
            }
            if isinstance(layer, nn.BatchNorm1d):
                rows.append(y[b] * weights["weight"] + weights["bias"])
            else:
                rows.append(functional_call(layer, weights, (y[b : b + 1],))[0])
        y = torch.stack(rows)
    return y


def linearised_by_engine(model: nn.Module, x: Tensor, explicit: Explicit) -> Tensor:
    with at_response(model, RespondingValidation({}, explicit.deltas())):
        return model(x)


def deltas_of(changes: Mapping[nn.Parameter, Delta], examples: int) -> Deltas:
    """What the engine takes, where each parameter has one term."""
    return Deltas({id(p): [delta] for p, delta in changes.items()}, BatchLayout(examples))


def perturbing(
    perturbed: Mapping[str, Tensor],
    today: Mapping[str, float] | None = None,
    shared: Mapping[str, float] | None = None,
) -> PerturbedValues:
    """The response's pass at these values, shape (B,) each, in which no parameter responds."""
    names = {name: column for column, name in enumerate(perturbed)}
    columns = Columns(torch.stack(list(perturbed.values()), dim=1), names)
    examples = columns.matrix.shape[0]
    none_respond = Deltas({}, BatchLayout(examples))
    return PerturbedValues(today or dict.fromkeys(names, 0.5), none_respond, columns, shared or {})


def relative_error(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).detach().norm() / reference.detach().norm())


def started(
    make: Callable[[Any], tuple[nn.Module, torch.optim.Optimizer]],
    loss_fn: Callable[[nn.Module, Any], Any],
    valid_loader: Any,
    *,
    start: Mapping[str, float] | None = None,
    config: optuna_dstn.TunerConfig | None = None,
    **options: Any,
) -> optuna_dstn.Tuner:
    """A Tuner under a fresh trial of a Δ-STN study; ``make(trial)`` gives model and optimizer."""
    study = optuna_dstn.create_study(config=config)
    if start is not None:
        study.enqueue_trial(dict(start))
    trial = study.ask()
    model, optimizer = make(trial)
    return optuna_dstn.Tuner(trial, model, optimizer, loss_fn, valid_loader, **options)
