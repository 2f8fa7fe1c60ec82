"""What self-tuning learns besides the weights: λ and σ, and the response."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Adam

from optuna_dstn._errors import HyperparameterError, late_hyperparameter
from optuna_dstn.batch._batch import part_of
from optuna_dstn.batch._clear_size import clear_size, explaining_part, unclear_lengths
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.discovery._parameter_watch import ParameterWatch
from optuna_dstn.discovery._plan import OpenParameters, TuningPlan
from optuna_dstn.linearize._linearize import UnfinishedLossError
from optuna_dstn.linearize._recorded_calls import RecordedCalls
from optuna_dstn.linearize._torch_call_mode import CurrentValues
from optuna_dstn.response import RESPONSES
from optuna_dstn.response._delta import Deltas
from optuna_dstn.response._optimizer import ResponseOptimizer
from optuna_dstn.space import Space
from optuna_dstn.study._config import TunerConfig
from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._current_hyperparameters import CurrentHyperparameters
from optuna_dstn.training._pace import Pace


Tensors = TypeVar("Tensors")

_ALL_FROZEN = (
    "Every parameter that responds to the hyperparameters has been frozen since the first training "
    "step, so nothing can tune them. Let what is to train later take part in the first step, with "
    "requires_grad=True and in the optimizer, in a group with lr=0 until then."
)


def _real(parameter: Tensor) -> Tensor:
    """Return the real part of a complex parameter, and any other as it is."""
    return parameter.real if parameter.is_complex() else parameter


class BilevelState:
    """The state of min_λ L_V(w*(λ)), made once the first step has shown what is tuned.

    Args:
        plan: What is tuned and what responds.
        open_parameters: Distribution and start value of each hyperparameter that may be tuned.
        context: The user's objects and settings.
        config: The method's settings.
        hyperparameters: The current values of the hyperparameters.

    Attributes:
        plan: As given.
        config: As given.
        hyperparameters: As given.
        watch: Looks for parameters of the model that change their role in later steps.
        space: λ and σ, in unconstrained space.
        response: Θ, the response of the weights to the hyperparameters.
        response_optimizer: Steps Θ.
        hyper_optimizer: Steps :attr:`tuned_tensors`.
        tuned_tensors: λ and, if σ is tuned, ρ with σ = softplus(ρ).
        lengths: The known lengths of axes, by which a pass finds the batch axis of a tensor.
        layout: The shapes that the last pass of the weights has met.
        starts_flat: Whether the first gradient of the weights was zero.
        names_read: Names of the hyperparameters that the perturbed passes have read so far;
            ``None`` before the first of them.
        centred: Names of the functions that took the centred pass in a linearised one so far.
        records_calls: Whether linearised passes record their calls, since the loss uses a scalar
            that the model computes itself.
    """

    def __init__(
        self,
        plan: TuningPlan,
        open_parameters: OpenParameters,
        context: TrainingContext,
        config: TunerConfig,
        hyperparameters: CurrentHyperparameters,
    ) -> None:
        self.plan = plan
        self.lengths = plan.lengths
        self.layout: BatchLayout | None = None
        self.config = config
        self.hyperparameters = hyperparameters
        self._context = context
        self.watch = ParameterWatch(context.model, context.optimizer, plan)
        tuned = {name: open_parameters[name] for name in plan.readers}
        self.space = Space(
            {name: distribution for name, (distribution, _) in tuned.items()},
            {name: start for name, (_, start) in tuned.items()},
            scale=config.initial_scale,
            like=_real(self.responding_parameters[0].detach()),
        )
        self.response = RESPONSES[config.response](
            plan.responding, len(self.space), plan.axes, config.initial_scale
        )
        # The response of "stn" is a part of the weights, so the same optimizer trains both.
        lr = None if config.method == "stn" else config.response_lr
        self.response_optimizer = ResponseOptimizer(
            self.response.parameter_groups(), context.optimizer, lr, context.response_optimizer
        )
        hyper_lr = Pace.of(config, context.total_steps).hyper_lr
        groups: list[dict[str, Any]] = [{"params": [self.space.raw], "lr": hyper_lr}]
        if config.tune_scale:
            groups.append({"params": [self.space.raw_scale], "lr": config.scale_lr})
        # This is RMSprop with a correction for its mean square, which starts at zero. Without the
        # correction the first steps would be ten times as long, while the response is hardly
        # trained.
        self.hyper_optimizer = Adam(groups, betas=(0.0, 0.99))
        self.tuned_tensors: list[Tensor] = [t for group in groups for t in group["params"]]
        self.starts_flat = False
        self.names_read: set[str] | None = None
        self.centred: set[str] = set()
        self.records_calls = False

    @property
    def shared_draws(self) -> tuple[str, ...]:
        """The hyperparameters with one draw of ε for all examples of a training batch."""
        return self.space.names if self.plan.one_perturbation else self.plan.shared

    @property
    def shared_validation_draws(self) -> tuple[str, ...]:
        """The hyperparameters with one draw of ε for all examples of a validation batch."""
        return self.space.names if self.plan.one_perturbation else ()

    @property
    def is_linear(self) -> bool:
        """Whether the network is linearised at its weights in Δ; otherwise the weights move."""
        return self.config.method == "delta-stn"

    @property
    def responding_parameters(self) -> list[nn.Parameter]:
        """All parameters of the model that respond."""
        return [p for group in self.plan.responding for p in group.values()]

    def forward_mode(self, batch: Any) -> CurrentValues:
        """Return the context of a pass on a batch, at the current hyperparameters."""
        expected = frozenset(self.plan.readers) | self.plan.idle
        self.layout = self._context.layout_of(batch)
        return CurrentValues(self.hyperparameters.values, expected, self.layout)

    @contextmanager
    def part_with_clear_axes(self, batch: Any) -> Iterator[tuple[Any, BatchLayout]]:
        """Yield the part of a batch on which lengths tell the batch axis, and a layout for a pass.

        The part is the whole batch unless another axis of a tensor is as long as the batch.

        Raises:
            UnclearLengthsError: If the pass shows a tensor of which lengths do not tell the axis.
                After that the batch counts as one that has to be divided.
            UndividedBatchError: If the pass on a part fails.
        """
        axis = self._context.batch_axis
        whole = self._context.layout_of(batch)
        size = clear_size(whole, whole.examples, self.lengths)
        if size < whole.examples:
            batch = part_of(batch, slice(0, size), whole.examples, axis)
        layout = BatchLayout(size, axis)
        with explaining_part(size, whole.examples):
            yield batch, layout
        if size == whole.examples and not self.lengths.tell(layout):
            self.lengths = self.lengths.with_doubt(size)
            raise unclear_lengths(size)

    def recording_if_needed(self, run: Callable[[], Tensors]) -> Tensors:
        """Return what a pass returns; repeat it with its calls recorded if the loss needs them.

        The loss needs them where it uses a scalar that the model computes itself.
        """
        try:
            return run()
        except UnfinishedLossError:
            if self.records_calls:
                raise
            self.records_calls = True
            return run()

    @property
    def record_of_calls(self) -> RecordedCalls | None:
        """A new record for a pass; ``None`` if no loss has needed one so far."""
        return RecordedCalls() if self.records_calls else None

    def deltas(
        self, gates: Tensor, batch: BatchLayout | None = None, *, trains_weights: bool = False
    ) -> Deltas:
        """Return Δ of every responding parameter, for a pass over a batch.

        Args:
            gates: What ``response.gates`` returned, with one row for each example.
            batch: The layout of the pass; by default a new one.
            trains_weights: Whether the pass trains the weights too.

        Raises:
            HyperparameterError: If every responding parameter is frozen.
        """
        terms = self.response.deltas(gates)
        if not terms:
            raise HyperparameterError(_ALL_FROZEN)
        batch = batch or BatchLayout(len(gates), self._context.batch_axis)
        return Deltas(terms, batch, linear=self.is_linear, trains_weights=trains_weights)

    def require_unchanged(self) -> None:
        """Check, before a step, that model and optimizer still fit what the first step found.

        Raises:
            HyperparameterError: If a new group of the optimizer decays by a hyperparameter that is
                not tuned.
            RuntimeError: If the model was moved or converted, or a parameter was replaced by one
                that the optimizer does not hold.
        """
        decay = self.hyperparameters.weight_decay
        late = decay.names - self.plan.readers.keys() - self.plan.idle
        if late:
            raise late_hyperparameter(", ".join(map(repr, sorted(late))), decay.place)
        self.space.require_same_place(self._context.model)
        self.watch.require_none_replaced()

    def require_all_read(self) -> None:
        """Check that the perturbed passes still read what the first step read.

        Raises:
            HyperparameterError: If they do not, so that no gradient reaches a hyperparameter.
        """
        if self.names_read is None:
            return
        names = self.names_read | self.hyperparameters.weight_decay.names
        unread = sorted(set(self.space.names) - names)
        if unread:
            functions = sorted({f for name in unread for f in self.plan.readers[name]})
            raise HyperparameterError(
                f"Hyperparameter {', '.join(map(repr, unread))} was read in the first step (in "
                f"{', '.join(functions)}) and never since, so no gradient could tune it. Do not "
                "keep a tensor that was made from it (functools.cache, an attribute of the "
                "model): make it anew in each call of loss_fn."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""
        return {
            "values": dict(self.hyperparameters.values),
            "raw": self.space.raw.detach().clone(),
            "raw_scale": self.space.raw_scale.detach().clone(),
            "response": self.response.state_dict(),
            "response_optimizer": self.response_optimizer.state_dict(),
            "hyper_optimizer": self.hyper_optimizer.state_dict(),
            "names_read": None if self.names_read is None else sorted(self.names_read),
            "centred": sorted(self.centred),
            "records_calls": self.records_calls,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, for the same plan."""
        with torch.no_grad():
            self.space.raw.copy_(state["raw"])
            self.space.raw_scale.copy_(state["raw_scale"])
        self.response.load_state_dict(state["response"])
        self.response_optimizer.load_state_dict(state["response_optimizer"])
        self.hyper_optimizer.load_state_dict(state["hyper_optimizer"])
        names = state["names_read"]
        self.names_read = None if names is None else set(names)
        self.centred = set(state["centred"])
        self.records_calls = state["records_calls"]
        self.hyperparameters.set(state["values"])
