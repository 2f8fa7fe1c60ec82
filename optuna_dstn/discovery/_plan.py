"""The plan that the first step leads to: what is tuned, what is kept, and what responds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution
from torch import Tensor, nn
from torch.optim import Optimizer

from optuna_dstn._errors import HyperparameterError, unknown_hyperparameter
from optuna_dstn.batch._clear_size import KnownLengths
from optuna_dstn.discovery._discovery import Discovery
from optuna_dstn.discovery._plain_copies import warn_of_plain_copies, warn_of_plain_dropout
from optuna_dstn.tensors._several_optimizers import kinds_of


_NOT_READ = (
    "no torch function reads it in training, or only as a plain number (float(h), 0.01 * h of an "
    "int h: write h * 0.01)"
)
_IDLE = "what it penalises does not respond"

FROZEN = "it does not require grad"
NOT_HELD = "it is not in the optimizer"
NO_PART = "it took no part in the first step"
HIDDEN = (
    "a custom torch.autograd.Function uses it, whose inside is hidden from the response "
    "(optuna_dstn.register_rule can show it)"
)
_CHOSEN = 'TunerConfig(perturbation="batch")'
_ALIKE = "some functions cannot tell the examples apart"


OpenParameters = Mapping[str, tuple[BaseDistribution, float]]
"""Distribution and start value of each hyperparameter that may still be tuned, by its name."""


@dataclass(frozen=True)
class TuningPlan:
    """What is tuned, what is kept, and what responds, as the first step has shown.

    Attributes:
        readers: For each tuned hyperparameter, the functions that read it.
        shared: The tuned hyperparameters that are read where no tensor has a batch axis. Their
            perturbation is one draw for the whole batch.
        kept: For each hyperparameter that is not tuned, the reason why it keeps its start value.
        idle: The kept hyperparameters that training reads nevertheless.
        responding: The responding parameters by name, one mapping for each group of the optimizer.
        axes: For each responding parameter, the axis along which its units lie.
        shared_in_batch: For each responding parameter that has one Δ for the whole batch, the
            functions that are the reason.
        without_rule: For each responding parameter that functions without a rule combine with each
            example, by forward-mode differentiation, these functions.
        not_responding: For each other parameter of the model, the reason why it does not respond.
        lengths: The known lengths of axes, by which a pass finds the batch axis of a tensor.
        one_perturbation: Why all examples of a batch share one perturbation; empty if each example
            has its own.
        parts: The names of the parts of the model that the loss function calls itself, in the order
            of their calls.
    """

    readers: Mapping[str, tuple[str, ...]]
    shared: tuple[str, ...]
    kept: Mapping[str, str]
    idle: frozenset[str]
    responding: tuple[Mapping[str, nn.Parameter], ...]
    axes: Mapping[str, int]
    shared_in_batch: Mapping[str, tuple[str, ...]]
    without_rule: Mapping[str, tuple[str, ...]]
    not_responding: Mapping[str, str]
    lengths: KnownLengths
    one_perturbation: str = ""
    parts: tuple[str, ...] = ()

    def state_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, with parameters by name."""
        return {
            "readers": dict(self.readers),
            "shared": list(self.shared),
            "kept": dict(self.kept),
            "idle": sorted(self.idle),
            "responding": [list(group) for group in self.responding],
            "axes": dict(self.axes),
            "shared_in_batch": dict(self.shared_in_batch),
            "without_rule": dict(self.without_rule),
            "not_responding": dict(self.not_responding),
            "lengths": self.lengths.state_dict(),
            "one_perturbation": self.one_perturbation,
            "parts": list(self.parts),
        }

    @classmethod
    def restored(cls, saved: Mapping[str, Any], model: nn.Module) -> TuningPlan:
        """Return the plan that :meth:`state_dict` saved, with the parameters of a model."""
        parameters = dict(model.named_parameters())
        return cls(
            readers=saved["readers"],
            shared=tuple(saved["shared"]),
            kept=saved["kept"],
            idle=frozenset(saved["idle"]),
            responding=tuple({n: parameters[n] for n in group} for group in saved["responding"]),
            axes=saved["axes"],
            shared_in_batch=saved["shared_in_batch"],
            without_rule=saved["without_rule"],
            not_responding=saved["not_responding"],
            lengths=KnownLengths.restored(saved["lengths"]),
            one_perturbation=saved["one_perturbation"],
            parts=tuple(saved["parts"]),
        )


def make_plan(
    discovery: Discovery,
    decaying: Mapping[str, list[Tensor]],
    opened: OpenParameters,
    enqueued: Collection[str],
    model: nn.Module,
    optimizer: Optimizer,
    *,
    lengths: KnownLengths = KnownLengths(),  # noqa: B008
    perturbation: str = "auto",
    parts: Sequence[str] = (),
) -> TuningPlan:
    """Decide what is tuned, what is kept and what responds.

    Args:
        discovery: The mode under which the first weight step ran.
        decaying: For each hyperparameter that is a weight decay, the parameters that decay.
        opened: The open hyperparameters of the trial.
        enqueued: The names of hyperparameters whose start value the user has enqueued.
        model: The model.
        optimizer: The model's optimizer.
        lengths: The known lengths of axes.
        perturbation: As in the ``TunerConfig``. The plan does not know yet whether the examples are
            coupled, which matters for ``"auto"``.
        parts: The names of the parts of the model that the loss function calls itself.

    Raises:
        HyperparameterError: If no hyperparameter can be tuned, or no parameter responds; or if a
            hyperparameter to be tuned has a single value, is enqueued on an edge of its range, is
            used as a size too, or comes from another trial.
    """
    each_example = perturbation == "example"
    responding, not_responding = _responding(discovery, model, optimizer, each_example)
    readers = {name: set(functions) for name, functions in discovery.readers.items()}
    idle: set[str] = set()
    penalties = [*_penalties(discovery, decaying, optimizer)]
    _leave_out_complex(responding, not_responding, penalties)
    for name, functions, parameters in penalties:
        if any(p is own for group in responding for own in group.values() for p in parameters):
            readers.setdefault(name, set()).update(functions)
        else:
            idle.add(name)
    idle -= readers.keys()
    for name in readers:
        _check_tunable(
            name, readers[name], discovery.plain_readers.get(name, set()), opened, enqueued
        )
    kept = {
        name: _IDLE
        if name in idle
        else f"a plain number in {_listed(discovery.plain_readers[name])}"
        if name in discovery.plain_readers
        else f"Python code decides by it, in {_listed(discovery.deciding[name])}"
        if name in discovery.deciding
        else _NOT_READ
        for name in opened
        if name not in readers
    }
    not_read = [name for name, why in kept.items() if why == _NOT_READ]
    starts = {name: start for name, (_, start) in opened.items()}
    warn_of_plain_copies(model, not_read, starts)
    if readers:  # otherwise an error says it
        warn_of_plain_dropout(model, not_read, starts, readers)
    reasons = "; ".join(f"{name}: {why}" for name, why in not_responding.items())
    if not any(responding) and (readers or idle):
        raise HyperparameterError(
            f"No parameter of the model responds to {_listed(readers.keys() | idle)} ({reasons}). "
            "Those that take part in model(...) and are in the optimizer respond; let loss_fn call "
            "model(...) on the batch."
        )
    if not readers and idle:
        raise HyperparameterError(
            f"Hyperparameter {_listed(idle)} only penalises parameters that do not respond "
            f"({reasons}), so there is nothing to tune by gradient. Penalise parameters "
            "that take part in model(...) and are in the optimizer, or take optuna.create_study."
        )
    if not readers:
        suggested = _listed(opened) if opened else "none"
        raise HyperparameterError(
            "No hyperparameter of this trial reaches the training computation (suggested as "
            f"numbers: {suggested}), so there is nothing to tune by gradient. Use one where torch "
            "reads it (nn.Dropout(h), weight_decay=h, x * h) without converting it by float(...), "
            "round(...), min(...) or max(...) first, and check that the model is in training mode "
            "and was made in this process (pickling makes plain numbers, as in ddp_spawn); "
            "or take optuna.create_study. Where only some trials have one, "
            "study.optimize(..., catch=(optuna_dstn.HyperparameterError,)) goes on with the others."
        )
    uses = {n: discovery.uses[id(p)] for group in responding for n, p in group.items()}
    shared_in_batch = {
        n: tuple(sorted(u.shared_in_batch)) for n, u in uses.items() if u.shared_in_batch
    }
    return TuningPlan(
        readers={name: tuple(sorted(readers[name])) for name in opened if name in readers},
        shared=tuple(name for name in opened if name in discovery.shared and name in readers),
        kept=kept,
        idle=frozenset(idle | (discovery.deciding.keys() & kept.keys())),
        responding=responding,
        axes={name: use.axis for name, use in uses.items()},
        shared_in_batch=shared_in_batch,
        without_rule={
            name: tuple(sorted(use.without_rule))
            for name, use in uses.items()
            if use.without_rule and not use.shared_in_batch
        },
        not_responding=not_responding,
        lengths=lengths,
        one_perturbation=_CHOSEN if perturbation == "batch" else _ALIKE if shared_in_batch else "",
        parts=tuple(parts),
    )


def _penalties(
    discovery: Discovery, decaying: Mapping[str, list[Tensor]], optimizer: Optimizer
) -> Iterator[tuple[str, set[str], list[Tensor]]]:
    """Yield each penalty coefficient, the penalty's functions, and the penalised parameters."""
    for name, parameters in decaying.items():
        kinds = kinds_of(parameters, optimizer)
        yield name, {f"{kind}(weight_decay=)" for kind in kinds}, parameters
    for name, parameters in discovery.penalised.items():
        yield name, discovery.penalties[name], parameters


def _leave_out_complex(
    responding: tuple[dict[str, nn.Parameter], ...],
    not_responding: dict[str, str],
    penalties: list[tuple[str, set[str], list[Tensor]]],
) -> None:
    """Move penalised complex parameters: the terms of penalties are for real ones."""
    penalised = {id(p) for _, _, parameters in penalties for p in parameters}
    for group in responding:
        for name, parameter in [*group.items()]:
            if parameter.is_complex() and id(parameter) in penalised:
                del group[name]
                not_responding[name] = "it is complex, and a penalty on it is tuned"


def _check_tunable(
    name: str,
    functions: Collection[str],
    plain_functions: Collection[str],
    opened: OpenParameters,
    enqueued: Collection[str],
) -> None:
    where = _listed(functions)
    if name not in opened:
        raise unknown_hyperparameter([name], where)
    if plain_functions:
        raise HyperparameterError(
            f"Hyperparameter {name!r} is used both as a plain number, in "
            f"{_listed(plain_functions)}, and as a value to tune, in {where}. Suggest two "
            f"hyperparameters, or write int({name}) or float({name}) where it is a plain number."
        )
    distribution, start = opened[name]
    low, high = _bounds(distribution)
    if distribution.single():
        raise HyperparameterError(
            f"Hyperparameter {name!r}, read by {where}, can only be {low:g}: low == high leaves "
            f"nothing to tune. Widen the range, or write the number {low:g} itself."
        )
    is_continuous = isinstance(distribution, FloatDistribution) and distribution.step is None
    is_on_edge = is_continuous and start in (low, high)
    if name in enqueued and (is_on_edge or not low <= start <= high):
        margin = 0.05 * (high - low) if is_continuous else 0  # a grid may start at its end
        inside = low + margin if start <= low else high - margin
        where = "on the edge of its range" if is_on_edge else "outside of its range"
        raise HyperparameterError(
            f"Hyperparameter {name!r} is enqueued to start at {start:g}, {where} "
            f"[{low:g}, {high:g}], where no gradient can move it. Start inside: "
            f"study.enqueue_trial({{{name!r}: {inside:g}}})."
        )


def _bounds(distribution: BaseDistribution) -> tuple[float, float]:
    return distribution.low, distribution.high  # type: ignore[attr-defined]


def _responding(
    discovery: Discovery, model: nn.Module, optimizer: Optimizer, each_example: bool
) -> tuple[tuple[dict[str, nn.Parameter], ...], dict[str, str]]:
    uses = discovery.uses
    group_of = {
        id(parameter): index
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }
    responding: tuple[dict[str, nn.Parameter], ...] = tuple({} for _ in optimizer.param_groups)
    not_responding: dict[str, str] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            not_responding[name] = FROZEN
        elif id(parameter) not in group_of:
            not_responding[name] = NOT_HELD
        elif id(parameter) in discovery.hidden and parameter.grad is not None:
            not_responding[name] = HIDDEN
        elif id(parameter) not in uses:
            outside = "it takes part outside of model(...) only"
            not_responding[name] = NO_PART if parameter.grad is None else outside
        elif each_example and uses[id(parameter)].shared_in_batch:
            functions = _listed(uses[id(parameter)].shared_in_batch)
            not_responding[name] = f"{functions} cannot tell the examples apart"
        else:
            responding[group_of[id(parameter)]][name] = parameter
    return responding, not_responding


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names))
