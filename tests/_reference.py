"""Slow, obviously right float64 references, and small helpers of the engine's tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import optuna_dstn
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.discovery._discovery import Discovery
from optuna_dstn.linearize._linearize import at_response, inside
from optuna_dstn.linearize._responding import PerturbedValues, RespondingValidation
from optuna_dstn.response._delta import Delta, Deltas
from optuna_dstn.space import NamedColumns


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
    columns = NamedColumns(torch.stack(list(perturbed.values()), dim=1), names)
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


class AnyModel:
    """Random Δ of the parameters of any model, responding as the first step finds, in float64.

    Every gate and every direction is a tensor of its own that requires grad. Where a parameter is
    alike in the whole batch, all examples have the same gates, as they have in a training.

    Args:
        model: All its parameters that take part respond.
        inputs: What it is called with; tensors with the batch axis are cut into examples.
        batch_axis: Where the examples are: 0, or 1 for sequence-first inputs.
        linear: Whether the network is linearised.
        terms: How many terms each Δ has.
        shared_gates: Whether each gate is one for all units, and one object for all parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        *inputs: Tensor,
        batch_axis: int = 0,
        linear: bool = True,
        terms: int = 1,
        shared_gates: bool = False,
    ) -> None:
        self.model, self.inputs = model, inputs
        self.batch_axis, self.linear = batch_axis, linear
        self.examples = inputs[0].shape[batch_axis]
        met = Discovery({}, BatchLayout(self.examples, batch_axis), {}, linear=linear)
        buffers = copy.deepcopy(list(model.buffers()))
        with inside(model, met), met:
            model(*inputs)
        met.order.require_kept()
        self._restore(buffers)
        used = {n: p for n, p in model.named_parameters() if id(p) in met.uses}
        self.axes = {name: met.uses[id(p)].axis for name, p in used.items()}
        self.shared_in_batch = {n: sorted(met.uses[id(p)].shared_in_batch) for n, p in used.items()}
        self.shared_in_batch = {
            name: functions for name, functions in self.shared_in_batch.items() if functions
        }
        rows = 1 if self.shared_in_batch else self.examples
        common = [torch.randn(rows, 1).requires_grad_() for _ in range(terms)]
        self.leaves: list[Tensor] = []
        self.terms: dict[str, list[Delta]] = {}
        for name, parameter in used.items():
            axis = self.axes[name]
            for index in range(terms):
                units = parameter.shape[axis] if parameter.ndim else 1
                gate = torch.randn(rows, units).requires_grad_()
                if shared_gates:
                    gate = common[index]
                direction = torch.randn(parameter.shape).requires_grad_()
                self.leaves += [gate, direction]
                self.terms.setdefault(name, []).append(
                    Delta(gate.expand(self.examples, -1), direction, axis)
                )
        if shared_gates:
            expanded = [gate.expand(self.examples, -1) for gate in common]
            self.terms = {
                name: [t._replace(gate=g) for t, g in zip(of, expanded, strict=True)]
                for name, of in self.terms.items()
            }

    def _restore(self, buffers: list[Tensor]) -> None:
        for buffer, value in zip(self.model.buffers(), buffers, strict=True):
            if not torch.equal(buffer, value):
                buffer.copy_(value)

    def by_engine(self) -> Tensor:
        """What the model returns in a pass at the response."""
        parameters = dict(self.model.named_parameters())
        deltas = Deltas(
            {id(parameters[n]): terms for n, terms in self.terms.items()},
            BatchLayout(self.examples, self.batch_axis),
            linear=self.linear,
        )
        buffers = copy.deepcopy(list(self.model.buffers()))
        with at_response(self.model, RespondingValidation({}, deltas)):
            output = self.model(*self.inputs)
        self._restore(buffers)
        return output

    def change(self, name: str, example: int) -> Tensor:
        """Δp of one example, unit by unit."""
        total = torch.zeros(())
        for gate, direction, axis in self.terms[name]:
            if direction.ndim == 0 or gate.shape[1] == 1:
                total = total + gate[example, 0] * direction
                continue
            units = [gate[example, u] * direction.select(axis, u) for u in range(gate.shape[1])]
            total = total + torch.stack(units, dim=axis)
        return total

    def by_examples(self) -> Tensor:
        """The model run on one example at a time, each at its own w + Δ, or linearised in it.

        The derivative is taken in reverse mode twice: nothing here uses forward mode.
        """
        outputs = [self._of_example(b) for b in range(self.examples)]
        return torch.cat(outputs, self.batch_axis if outputs[0].ndim > 1 else 0)

    def _of_example(self, example: int) -> Tensor:
        inputs = [x.narrow(self.batch_axis, example, 1).clone() for x in self.inputs]
        changes = {name: self.change(name, example) for name in self.terms}

        def network(t: Tensor) -> Tensor:
            weights = {n: p.detach() for n, p in self.model.named_parameters()}
            weights |= {n: weights[n] + t * change for n, change in changes.items()}
            buffers = {n: b.clone() for n, b in self.model.named_buffers()}
            output: Tensor = functional_call(
                self.model, {**weights, **buffers}, tuple(x.clone() for x in inputs)
            )
            return output

        if not self.linear:
            return network(torch.ones(()))
        t = torch.zeros((), requires_grad=True)
        value = network(t)
        v = torch.zeros_like(value, requires_grad=True)
        (pulled_back,) = torch.autograd.grad(value, t, v, create_graph=True)
        (pushed_forward,) = torch.autograd.grad(pulled_back, v, create_graph=True)
        return value.detach() + pushed_forward

    def require_right(self, tolerance: float = 1e-9) -> None:
        """Check value and gradients of the engine against those of the examples by themselves."""
        with torch.no_grad():
            buffers = copy.deepcopy(list(self.model.buffers()))
            plain = self.model(*(x.clone() for x in self.inputs))
            self._restore(buffers)
        mine, theirs = self.by_engine(), self.by_examples()
        assert mine.shape == theirs.shape
        assert (theirs - plain).norm() > 1e-3 * plain.norm(), "Δ changes nothing"
        error = relative_error(mine - plain, theirs - plain)
        assert error < tolerance, f"the prediction is wrong by {error:.1e}"
        weights = torch.randn(mine.shape)
        gradients = [
            torch.autograd.grad((y * weights).sin().sum(), self.leaves, allow_unused=True)
            for y in (mine, theirs)
        ]
        largest = max(float(g.norm()) for g in gradients[1] if g is not None)
        for own, reference in zip(*gradients, strict=True):
            own, reference = (g if g is not None else torch.zeros(()) for g in (own, reference))
            error = float((own - reference).norm()) / largest
            assert error < tolerance, f"a gradient is wrong by {error:.1e}"
