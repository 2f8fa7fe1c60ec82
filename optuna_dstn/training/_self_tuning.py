"""Self-tuning networks: weights, their response and the hyperparameters trained together.

The bilevel problem min_λ L_V(w*(λ)), w*(λ) = argmin_w L_T(λ, w), is solved in one run, in which
gradient steps on the weights and on their response to λ alternate with, every ``train_steps`` of
them, one on λ, whose gradient is that of

    L_V(w + Θε'),     ε' = λ − stop_grad(λ),

Θ fixed: Θᵀ∇L_V(w), for which a plain pass serves. Where the scale σ of the perturbation is tuned
too, the step is on λ and σ, on

    E_ε L_V(w + Θε') − τ·H(ε),     ε' = λ − stop_grad(λ) + ε

(Bae & Grosse, 2020, "Delta-STN: Efficient Bilevel Optimization for Neural Networks using Structured
Response Jacobians"). ε has one row per example. How the weights and Θ are trained is what the
methods differ in: see :mod:`._centered_stn` and :mod:`._stn`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
import functools
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from optuna_dstn._errors import HyperparameterError, late_hyperparameter, logger
from optuna_dstn.batch._batch import EndlessBatches, batch_size, mean_loss, part_of, tensors_of
from optuna_dstn.batch._clear_size import (
    KnownLengths,
    UnclearLengthsError,
    UndividedBatchError,
    clear_size,
    explaining_part,
    require_lengths_tell,
)
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.discovery._discovery import Discovery
from optuna_dstn.discovery._plan import TuningPlan, make_plan
from optuna_dstn.hyperparameter._number import Hyperparameter, plain
from optuna_dstn.linearize._linearize import at_response, frozen, inside, merged_loss
from optuna_dstn.linearize._responding import PerturbedValues, RespondingValidation
from optuna_dstn.linearize._torch_call_mode import CurrentValues, ValidationValues
from optuna_dstn.response._delta import Deltas
from optuna_dstn.response._optimizer import OptimizerFactory
from optuna_dstn.study._attributes import CONFIG, START, TUNED
from optuna_dstn.study._config import TunerConfig
from optuna_dstn.study._trial import DSTNTrial
from optuna_dstn.tensors._random_numbers import repeated_random_numbers
from optuna_dstn.training._bilevel_state import BilevelState
from optuna_dstn.training._evaluation import LossFunction, differentiable_in_evaluation, evaluating
from optuna_dstn.training._model_state import ModelState, Snapshot
from optuna_dstn.training._summary import Summary
from optuna_dstn.training._training import Training
from optuna_dstn.training._weight_decay import WeightDecay


_VALID_LOSS = "The validation loss function"
_NO_SECOND_DERIVATIVE = (
    "The loss itself is finite: an operation of the network may have no second derivative in "
    'PyTorch where it was, such as torch.sinc at 0; TunerConfig(method="centered-stn") needs none. '
)
_CUT_OFF = (
    "The training loss does not depend on the response: no gradient reaches it. Check that nothing "
    "in the model cuts the graph (detach, no_grad, checkpoint(use_reentrant=True)) between its "
    "layers and its output."
)
_VALIDATION_CUT_OFF = (
    "The validation loss does not depend on the weights that respond: no gradient reaches them. "
    "Let valid_loss_fn call the model that is trained (no copy of it), and compute with gradients "
    "(not under torch.no_grad(), from nothing detached): the steps on the hyperparameters "
    "differentiate it."
)
ALL_FROZEN = (
    "Every parameter that responds to the hyperparameters has been frozen since the first training "
    "step, so nothing can tune them. Let what is to train later take part in the first step, with "
    "requires_grad=True and in the optimizer, in a group with lr=0 until then."
)


class SelfTuning(Training):
    """Training in which the hyperparameters that reach torch are tuned by gradient.

    What is tuned and what responds is found in the first step.

    Args:
        trial: A trial of a Δ-STN study.
        model: The model.
        optimizer: Its optimizer.
        loss_fn: ``loss_fn(model, batch)`` on training batches.
        valid_loader: Validation batches.
        valid_loss_fn: ``valid_loss_fn(model, batch)`` on validation batches.
        model_state: What model and loss functions keep from call to call.
        config: The method's settings.
        optimizer_factory: Makes the optimizer of the response from its tensors; ``None`` makes one
            of the same class and settings as ``optimizer``.
        max_grad_norm: Clips the gradients of weights and response, each to this norm; ``None`` does
            not.
        batch_axis: Where the examples are in the batch's tensors: 0, or 1 for sequence-first ones.
        accumulate_grad_batches: Batches whose mean gradients make one step, the response's too.

    Attributes:
        hyperparameter_steps: Steps taken on the hyperparameters so far.
        start: The values that the run began with, in the trial that it was resumed from maybe.
        is_linear: Whether the network is linearised at its weights; else the weights move.
    """

    is_linear: ClassVar[bool] = False

    def __init__(
        self,
        trial: DSTNTrial,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: LossFunction,
        valid_loader: Iterable[Any],
        valid_loss_fn: LossFunction,
        model_state: ModelState,
        config: TunerConfig,
        optimizer_factory: OptimizerFactory | None,
        max_grad_norm: float | None = None,
        batch_axis: int = 0,
        accumulate_grad_batches: int = 1,
    ) -> None:
        super().__init__(
            model, optimizer, loss_fn, max_grad_norm, batch_axis, accumulate_grad_batches
        )
        self.hyperparameter_steps = 0
        self._trial = trial
        self._valid_loss_fn = valid_loss_fn
        self._model_state = model_state
        self._config = config
        self._optimizer_factory = optimizer_factory

        self._weight_decay = WeightDecay(optimizer)
        self._values: dict[str, float] = {
            name: value for name, (_, value) in trial.open_parameters.items()
        }
        self.start = self._values
        self._plain_in_optimizer: dict[str, set[str]] = {}
        self._state: BilevelState | None = None
        self._set_optimizer()
        self._valid_batches = EndlessBatches(valid_loader)
        self._read: set[str] = set()  # by any response step

    # -- the steps -------------------------------------------------------------------------------

    def step(self, batch: Any) -> float:
        self._set_optimizer()
        examples = batch_size(batch, self._batch_axis)
        needs_state = self._response_is_due or self._state is None
        before = self._model_state.taken() if needs_state else None
        if self._state is None:
            loss = self._discovering_weight_step(batch, examples, before)
        else:
            self._state.space.require_same_place(self._model)
            self._state.watch.require_none_replaced()
            loss = self._train_weights(batch, examples)
            self._state.watch.warn_of_late()
        if before is not None and self._response_is_due:
            with self._model_state.rewound(before):
                self._add_response_gradient(batch, examples)
        if self._is_last_of_step:
            self._apply_gradients()
        if not self._count_batch():
            return loss
        since_warmup = self.steps - self._config.warmup_steps
        if since_warmup > 0 and since_warmup % self._config.train_steps == 0:
            self._require_all_read()
            for _ in range(self._config.valid_steps):
                self._hyperparameter_step()
        return loss

    @abstractmethod
    def _train_weights(self, batch: Any, examples: int) -> float:
        """Train the weights on a batch, not the first one; return the training loss before that."""

    def _unperturbed_weight_step(self, batch: Any, examples: int) -> float:
        plan = self._settled.plan
        self._seen = self._layout_of(batch, examples)
        mode = CurrentValues(self._values, frozenset(plan.readers) | plan.idle, self._seen)
        return self._weight_step(mode, batch, examples)

    @property
    def _response_is_due(self) -> bool:
        """Whether the response has a step of its own, in this step."""
        return False

    def _add_response_gradient(self, batch: Any, examples: int) -> None:
        """Add a batch's share to the gradient of the response's own step."""

    @abstractmethod
    def _apply_gradients(self) -> None:
        """Take the steps that are due after the last batch of one, as far as they are not taken."""

    @contextmanager
    def _gates(self, perturbation: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the response's gates, for passes that go back as far as these one by one.

        Args:
            perturbation: ε, shape (B, h).
        """
        gates = self._settled.response.gates(perturbation)
        leaf = gates.detach().requires_grad_(gates.requires_grad)
        yield leaf
        if leaf.grad is not None:
            gates.backward(leaf.grad)

    def _add_perturbed_gradient(
        self,
        batch: Any,
        examples: int,
        values: torch.Tensor,
        deltas: Deltas,
        *,
        share: float = 1.0,
        is_unseen: bool = False,
        decay_at: Callable[[], tuple[torch.Tensor, Deltas]] | None = None,
    ) -> torch.Tensor:
        """Add a share of the gradient of ``loss_fn``, at perturbed hyperparameters and at Δ.

        Args:
            batch: The batch.
            examples: B, its size.
            values: Of the tuned hyperparameters, shape (B, h).
            deltas: Δ, and whether the gradient is that of the weights too.
            share: The factor of the batch's gradient.
            is_unseen: Whether no other pass has shown that lengths tell the batch axis.
            decay_at: Returns values and Δ at which the gradient of the weight decay, as a term of
                the loss, is added too, whole. It is that of the parameters that the pass has
                written; it is called when the pass has freed its memory.

        Returns:
            What ``loss_fn`` returned, the mean, without its graph.
        """
        state = self._settled
        shared = state.plan.shared
        perturbed = state.space.columns(values)
        mode = PerturbedValues(
            self._values,
            deltas,
            state.space.columns(values, without=shared),
            {name: perturbed[name][0].item() for name in shared},
        )
        with ExitStack() as keeping:
            if not deltas.trains_weights:
                keeping.enter_context(self._model_state.unchanged())
                keeping.enter_context(mode.leaving(self._model_state.parameters))
            # The loss function's own parameters too, whose gradients are of the weights' pass.
            others = [] if deltas.trains_weights else self._optimized
            with frozen(others), at_response(self._model, mode):
                loss = merged_loss(self._loss_fn(self._model, batch), examples, "loss_fn")
            if is_unseen:
                require_lengths_tell(deltas.batch, self._settled.lengths)
            self._read |= mode.names
            self._add_gradient(loss, share)
            if decay_at is not None:
                self._add_decay_gradient(*decay_at())
        return loss.detach()

    def _add_decay_gradient(self, values: torch.Tensor, deltas: Deltas) -> None:
        perturbed: Mapping[str, Any] = ChainMap(
            self._settled.space.columns(values),  # type: ignore[arg-type]
            self._values,
        )
        loss = self._weight_decay.response_loss(deltas, perturbed)
        if isinstance(loss, torch.Tensor):
            self._add_gradient(loss)

    def _add_gradient(self, loss: torch.Tensor, share: float = 1.0) -> None:
        self.require_finite(loss.item(), "training loss of the response")
        if loss.requires_grad:
            (share / self._batches_of_step * loss).backward()

    def _require_gradient(self, *others: torch.Tensor, is_first: bool) -> None:
        """Check that a gradient has reached the response, or these: in the first step, not zero."""
        tensors = (*others, *self._settled.response.parameters())
        if not any(t.grad is not None and (not is_first or bool(t.grad.any())) for t in tensors):
            raise HyperparameterError(_CUT_OFF)

    def _require_all_read(self) -> None:
        """Check that training goes on reading what the first step read."""
        state = self._settled
        unread = set(state.space.names) - self._read - self._weight_decay.names
        if unread:
            where = sorted({f for name in unread for f in state.plan.readers[name]})
            raise HyperparameterError(
                f"Hyperparameter {_listed(unread)} was read in the first step (in "
                f"{', '.join(where)}) and never since, so no gradient could tune it. Do not keep a "
                "tensor that was made from it (functools.cache, an attribute of the model): make "
                "it anew in each call of loss_fn."
            )

    def _deltas(
        self, gates: torch.Tensor, examples: int, *, trains_weights: bool = False
    ) -> Deltas:
        batch = BatchLayout(examples, self._batch_axis)
        terms = self._settled.response.deltas(gates)
        if not terms:
            raise HyperparameterError(ALL_FROZEN)
        return Deltas(terms, batch, linear=self.is_linear, trains_weights=trains_weights)

    def _hyperparameter_step(self) -> None:
        state = self._settled
        batch = next(self._valid_batches)
        examples = batch_size(batch, self._batch_axis)
        # Its value is zero; its derivative with respect to λ is the identity.
        displacement = (state.space.raw - state.space.raw.detach())[None]
        if self._config.tune_scale:
            gradients = self._perturbed_hypergradient(batch, examples, displacement)
        else:
            gradients = self._hypergradient(batch, examples, displacement)
        self._require_finite_gradient(torch.cat(gradients).sum().item(), "hypergradient")
        for tensor, gradient in zip(state.trained, gradients, strict=True):
            tensor.grad = gradient
        state.hyper_optimizer.step()
        self.hyperparameter_steps += 1
        self._set_values(state.space.current())

    def _hypergradient(
        self, batch: Any, examples: int, displacement: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return Θᵀ∇L_V(w): no more than a plain pass forth and back, and a product with Θ."""
        state = self._settled
        deltas = self._deltas(state.response.gates(displacement), 1)
        responding = [p for group in state.plan.responding for p in group.values()]
        responding = [p for p in responding if p in deltas]
        self._optimizer.zero_grad()  # its memory serves these gradients
        with (
            self._model_state.validation(anew=self._valid_batches.drawn == 1),
            evaluating(self._model),
            differentiable_in_evaluation(self._model),
            self.reading_validation() as mode,
            mode.leaving(self._model_state.parameters),
        ):
            loss = mean_loss(self._valid_loss_fn(self._model, batch), examples, _VALID_LOSS)
            self._require_finite_validation(loss)
            gradients: tuple[torch.Tensor | None, ...] = ()
            if loss.requires_grad:
                gradients = torch.autograd.grad(loss, responding, allow_unused=True)
        changes = [
            term.inner_product(gradient.to_dense())  # an embedding's may be sparse
            for parameter, gradient in zip(responding, gradients, strict=False)
            if gradient is not None
            for term in deltas.of(parameter)
        ]
        if not changes:
            raise HyperparameterError(_VALIDATION_CUT_OFF)
        return torch.autograd.grad(changes, state.trained)

    def _perturbed_hypergradient(
        self, batch: Any, examples: int, displacement: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return the gradient of E_ε L_V(w + Θε') − τ·H(ε) with respect to λ and ρ."""
        try:
            return self._perturbed_hypergradient_once(batch, examples, displacement)
        except UnclearLengthsError:
            self._settled.lengths = self._settled.lengths.with_doubt(examples)
            return self._perturbed_hypergradient_once(batch, examples, displacement)

    def _perturbed_hypergradient_once(
        self, batch: Any, examples: int, displacement: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        state = self._settled
        whole = examples
        batch, examples = self._clear_part(batch, examples)
        noise = state.space.perturbation(examples, state.shared_validation_draws)
        deltas = self._deltas(state.response.gates(displacement + noise), examples)
        mode = RespondingValidation(self._values, deltas)
        with mode.leaving(self._model_state.parameters):
            with (
                self._model_state.validation(anew=self._valid_batches.drawn == 1),
                evaluating(self._model),
                at_response(self._model, mode),
                explaining_part(examples, whole),
            ):
                loss = merged_loss(self._valid_loss_fn(self._model, batch), examples, _VALID_LOSS)
                if examples == whole:
                    require_lengths_tell(deltas.batch, self._settled.lengths)
            loss = loss - self._config.entropy_weight * state.space.entropy()
            self._require_finite_validation(loss)
            return torch.autograd.grad(loss, state.trained)

    def _clear_part(self, batch: Any, examples: int) -> tuple[Any, int]:
        """Return the part of a batch that a perturbed pass sees, and its size.

        It is the whole batch where lengths tell which axis is the batch's.
        """
        size = clear_size(self._layout_of(batch, examples), examples, self._settled.lengths)
        if size == examples:
            return batch, examples
        return part_of(batch, slice(0, size), examples, self._batch_axis), size

    def _require_finite_gradient(self, norm: float, what: str) -> None:
        """Check the gradient of a loss that is finite, with respect to the response or to λ."""
        self.require_finite(norm, what, _NO_SECOND_DERIVATIVE if self.is_linear else "")

    def _require_finite_validation(self, loss: torch.Tensor) -> None:
        self.require_finite(loss.item(), "validation loss in a step on the hyperparameters")

    def _set_values(self, values: Mapping[str, float]) -> None:
        self._values = {**self._values, **values}
        self._weight_decay.set(self._values)

    def _set_optimizer(self) -> None:
        """Give the optimizer today's values, groups that it got since the last step included."""
        self._weight_decay.set(self._values)
        if self._state is not None:
            plan = self._state.plan
            late = self._weight_decay.names - plan.readers.keys() - plan.idle
            if late:
                raise late_hyperparameter(_listed(late), self._weight_decay.place)
        for name, places in _made_plain(self._optimizer).items():
            self._plain_in_optimizer.setdefault(name, set()).update(places)

    # -- what the first step settles -------------------------------------------------------------

    def _discovering_weight_step(self, batch: Any, examples: int, before: Snapshot | None) -> float:
        """Take the first weight step, and settle what is tuned and what responds.

        Where lengths do not tell the batch axis, what is tuned and what responds is found in a
        second pass, on so few examples that they do.
        """
        self._seen = whole = self._layout_of(batch, examples, records_axes=True)
        discovery = self._discovery(whole)
        with inside(self._model, discovery):
            loss = self._weight_step(discovery, batch, examples)
        part = None
        if not discovery.lengths_tell:
            assert before is not None, "it is taken before the first step"
            size = clear_size(whole, examples - 1, KnownLengths())
            try:
                with explaining_part(size, examples, (Exception,)):
                    discovery, part = self._discovery_on_part(
                        batch, examples, size, before, discovery.has_warned
                    )
            except UndividedBatchError:
                # A constant that fits the whole batch alone is one of the batch.
                if whole.doubtful_shapes or whole.is_misled:
                    raise
        plan = make_plan(
            discovery,
            self._weight_decay.parameters,
            self._trial.open_parameters,
            self._trial.enqueued_names,
            self._model,
            self._optimizer,
            lengths=KnownLengths.found(whole, part),
            each_example=self._config.perturbation == "example",
        )
        self._check_validation_loss()
        self._start(plan)
        return loss

    def _discovery(self, layout: BatchLayout) -> Discovery:
        opened = self._trial.open_parameters
        ranges = {name: opened[name][0] for name in opened}
        discovery = Discovery(self._values, layout, ranges, linear=self.is_linear)
        discovery.plain_readers.update(self._plain_in_optimizer)
        return discovery

    def _discovery_on_part(
        self, batch: Any, examples: int, size: int, before: Snapshot, has_warned: bool
    ) -> tuple[Discovery, BatchLayout]:
        """Repeat the first pass on some examples, without a step and without a trace."""
        part = part_of(batch, slice(0, size), examples, self._batch_axis)
        layout = self._layout_of(part, size, records_axes=True)
        discovery = self._discovery(layout)
        discovery.has_warned = has_warned
        with (
            self._model_state.repeated(before),
            repeated_random_numbers(self._optimized[0]),
            inside(self._model, discovery),
            discovery.leaving(self._model_state.parameters),
            discovery,
        ):
            self._loss_fn(self._model, part)
        return discovery, layout

    def _layout_of(self, batch: Any, examples: int, *, records_axes: bool = False) -> BatchLayout:
        """Return the layout of a pass on a batch, with the tensors in the batch noted."""
        layout = BatchLayout(examples, self._batch_axis, records_axes=records_axes)
        layout.note_tensors(tensors_of(batch))
        return layout

    def _check_validation_loss(self) -> None:
        """Meet every mistake in the validation loss now, not after the warm-up."""
        batch = next(self._valid_batches)
        call = functools.partial(self._valid_loss_fn, self._model, batch)
        with (
            self._model_state.validation(anew=True),
            evaluating(self._model),
            self.reading_validation() as mode,
            mode.leaving(self._model_state.parameters),
        ):
            loss = mean_loss(
                self._model_state.evaluated("valid_loss_fn", call),
                batch_size(batch, self._batch_axis),
                _VALID_LOSS,
            )
        self.require_finite(loss.item(), "validation loss")
        if not loss.requires_grad:
            raise HyperparameterError(_VALIDATION_CUT_OFF)

    def _start(self, plan: TuningPlan) -> None:
        """Begin to tune, and store with the trial what is settled."""
        trial, config = self._trial, self._config
        opened = trial.open_parameters
        state = BilevelState(
            plan, opened, self._model, self._optimizer, config, self._optimizer_factory
        )
        self._state = state
        trial.store({name: opened[name][1] for name in plan.kept})
        self._store_start()
        trial.set_user_attr(TUNED, list(self.tuned))
        trial.set_user_attr(CONFIG, asdict(config))
        logger.info(
            f"Trial {trial.number}: {config.method} tunes {', '.join(self.tuned)}"
            + (f"; kept as suggested: {', '.join(plan.kept)}." if plan.kept else ".")
        )

    def _store_start(self) -> None:
        start = {name: self.start[name] for name in self._settled.space.names}
        self._trial.set_user_attr(START, self._trial.parameter_values(start))

    @property
    def _settled(self) -> BilevelState:
        assert self._state is not None, "only the first weight step comes before"
        return self._state

    # -- the Tuner's questions -------------------------------------------------------------------

    def final_hyperparameters(self) -> dict[str, float]:
        """Return the values at the end of the trial; warn if nothing but its length kept them."""
        is_settled = self._state is not None
        if is_settled and not self.hyperparameter_steps and not self._trial.is_pruned:
            logger.warning(
                f"Trial {self._trial.number} ended after {self.steps} steps, before its first step "
                f"on the hyperparameters: {', '.join(self.tuned)} kept their start values. Train "
                f"longer, or shorten TunerConfig(warmup_steps={self._config.warmup_steps}, "
                f"train_steps={self._config.train_steps})."
            )
        return self.hyperparameters

    def reading_validation(self) -> AbstractContextManager[Any]:
        return ValidationValues(self._values)

    @property
    def hyperparameters(self) -> dict[str, float]:
        return dict(self._values)

    @property
    def sigmas(self) -> dict[str, float]:
        return {} if self._state is None else self._state.space.current_scale()

    @property
    def tuned(self) -> tuple[str, ...]:
        return () if self._state is None else self._state.space.parameters

    def summary(self) -> Summary:
        if self._state is None:
            raise RuntimeError(
                "What is tuned and what responds is found in the first step: call "
                "Tuner.step(batch) before Tuner.summary()."
            )
        return Summary(
            method=self._config.method,
            hyperparameter_steps=self.hyperparameter_steps,
            tuned=self._state.plan.readers,
            shared=self._state.plan.shared,
            kept=self._state.plan.kept,
            responding=self._state.response.names,
            shared_in_batch=self._state.plan.shared_in_batch,
            not_responding=self._state.plan.not_responding,
        )

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "steps": self.steps,
            "hyperparameter_steps": self.hyperparameter_steps,
            "start": dict(self.start),
            "values": dict(self._values),
            "valid_batches_drawn": self._valid_batches.drawn,
            "read": sorted(self._read),
            **self._accumulated(),
        }
        if self._state is not None:
            state |= {
                "plan": self._state.plan.state_dict(),
                "bilevel": self._state.state_dict(),
            }
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "plan" in state:
            self.start = dict(state.get("start", self.start))  # older states have none
            if self._state is None:
                self._start(self._restored_findings(state["plan"]))
            else:
                self._store_start()
            self._settled.load_state_dict(state["bilevel"])
            self._set_values(state["values"])
        self.steps = state["steps"]
        self.hyperparameter_steps = state["hyperparameter_steps"]
        self._valid_batches.skip_to(state["valid_batches_drawn"])
        self._read = set(state["read"])
        self._load_accumulated(state)

    @property
    def _accumulating(self) -> list[torch.Tensor]:
        response = [] if self._state is None else self._settled.response.parameters()
        return [*super()._accumulating, *response]

    def _restored_findings(self, saved: Mapping[str, Any]) -> TuningPlan:
        missing = saved["readers"].keys() - self._trial.open_parameters.keys()
        if missing:
            raise HyperparameterError(
                f"The saved state tunes {', '.join(sorted(missing))}, which this trial has not "
                "suggested. Load it in the same objective, before the first step."
            )
        lost = [
            name
            for name, functions in saved["readers"].items()
            if name not in self._weight_decay.names
            and any(function.endswith("(weight_decay=)") for function in functions)
        ]
        if lost:
            raise HyperparameterError(
                f"The saved state tunes {', '.join(lost)} as a weight decay, but the optimizer "
                "holds a plain number there. Make the Tuner before optimizer.load_state_dict(...), "
                "which overwrites the suggested one."
            )
        return TuningPlan.restored(saved, self._model, self._trial.open_parameters)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names)))


def _made_plain(optimizer: Optimizer) -> dict[str, set[str]]:
    """Leave plain numbers (lr=h, momentum=h) in the optimizer, as its checkpoints should hold.

    Returns:
        For each hyperparameter found there, where.
    """
    found: dict[str, set[str]] = {}
    for group in optimizer.param_groups:
        for key, value in group.items():
            if isinstance(value, Hyperparameter):
                group[key] = plain(value)
                for name in value.names:
                    found.setdefault(name, set()).add(f"{type(optimizer).__name__}({key}=)")
    return found
