"""The first step, which shows what is tuned and what responds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optuna_dstn._errors import HyperparameterError, logger
from optuna_dstn.batch._batch import batch_size, part_of, tensors_of
from optuna_dstn.batch._clear_size import (
    KnownLengths,
    UndividedBatchError,
    clear_size,
    explaining_part,
)
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.discovery._discovery import Discovery
from optuna_dstn.discovery._plan import TuningPlan, make_plan
from optuna_dstn.linearize._linearize import inside, parts_with_parameters
from optuna_dstn.study._attributes import CONFIG, TUNED
from optuna_dstn.study._trial import DSTNTrial
from optuna_dstn.tensors._random_numbers import repeated_random_numbers
from optuna_dstn.training._bilevel_state import BilevelState
from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._current_hyperparameters import CurrentHyperparameters
from optuna_dstn.training._model_state import Snapshot
from optuna_dstn.training._outer_variables import OuterVariables
from optuna_dstn.training._validation import Validation


class _FirstPass(NamedTuple):
    """A forward pass, as the discovery has seen it.

    Attributes:
        layout: The shapes that the pass has met.
        discovery: What the pass has shown.
        state_before: The state of the model before the pass.
        parts: The names of the parts of the model that the loss function has called itself.
    """

    layout: BatchLayout
    discovery: Discovery
    state_before: Snapshot
    parts: Sequence[str]


_FLAT = (
    "In the first training batch the gradient of the loss is zero in every parameter that responds "
    "to the hyperparameters, as where a ReLU lets nothing through or an output saturates. Training "
    "goes on. If the loss does not fall, look at the scale of the inputs and at the initial "
    "weights and biases."
)


_FRUITLESS_REPETITIONS = 4  # of the first pass, in which no further layer takes part


def _is_flat(parameters: Iterable[Tensor]) -> bool:
    """Whether parameters have a gradient, and all of it is zero."""
    gradients = [p.grad.to_dense() for p in parameters if p.grad is not None]
    # A norm takes no memory of the gradient's size, as a comparison with zero would.
    return bool(gradients) and not any(bool(torch.linalg.vector_norm(g)) for g in gradients)


def _are_relations(layout: BatchLayout, batch: Any) -> bool:
    """Whether two axes are as long as the batch only in matrices of examples by examples."""
    squares = {tuple(t.shape) for t in tensors_of(batch)} & {(layout.examples, layout.examples)}
    return layout.doubtful_shapes <= squares


@dataclass
class FirstStep:
    """Makes the bilevel state, from an ordinary step on the weights or from a saved plan.

    The ordinary step calls :meth:`forward`, then :meth:`make_plan` after the backward pass, and
    then :meth:`begin`.

    Attributes:
        trial: A trial of a Δ-STN study.
        context: The user's objects and settings.
        hyperparameters: The current values of the hyperparameters.
        validation: The validation batches and loss.
    """

    trial: DSTNTrial
    context: TrainingContext
    hyperparameters: CurrentHyperparameters
    validation: Validation
    _pass: _FirstPass | None = field(default=None, init=False)
    _plan: tuple[TuningPlan, BatchLayout] | None = field(default=None, init=False)

    @contextmanager
    def forward(self, batch: Any, state_before: Snapshot) -> Iterator[None]:
        """Watch a forward pass inside, to find what it does with the hyperparameters.

        Args:
            batch: The first batch.
            state_before: The state of the model before the pass.

        Raises:
            HyperparameterError: If a hyperparameter is used in a way that cannot be tuned.
        """
        layout = self.context.layout_of(batch, records_axes=True)
        discovery = self._discovery(layout)
        outer_variables = OuterVariables(self.context.loss_fn, self.context.model_state)
        model = self.context.model
        with inside(model, discovery, parts_with_parameters(model)) as parts, discovery:
            yield
        outer_variables.warn_of_changes()
        self._pass = _FirstPass(layout, discovery, state_before, parts)

    def make_plan(self, batch: Any) -> None:
        """Plan what is tuned and what responds, while the gradients are there.

        If another axis of a tensor is as long as the batch, a second pass on fewer examples finds
        what is tuned and what responds.

        Args:
            batch: The first batch.

        Raises:
            HyperparameterError: If a hyperparameter is used in a way that cannot be tuned, or
                nothing is tuned.
        """
        context = self.context
        assert self._pass is not None, "forward makes it"
        first, self._pass = self._pass, None
        repetition = None
        if not first.discovery.lengths_tell:
            repetition = self._repeated_on_part(batch, first)
        last = repetition or first
        part = None if repetition is None else repetition.layout
        lengths = KnownLengths.found(first.layout, part)  # before further passes are seen as well
        self._look_for_skipped_layers(batch, last)
        plan = make_plan(
            last.discovery,
            self.hyperparameters.weight_decay.parameters,
            self.trial.open_parameters,
            self.trial.enqueued_names,
            context.model,
            context.optimizer,
            lengths=lengths,
            perturbation=self.trial.config.perturbation,
            parts=first.parts,
        )
        if not plan.shared_in_batch and self.trial.config.perturbation != "batch":
            first.discovery.order.require_kept()
            last.discovery.order.require_kept()
        if context.ranks.are_several:  # their batches may show different things
            saved = context.ranks.of_first(plan.state_dict())
            plan = TuningPlan.restored(saved, context.model)
        self._plan = plan, first.layout

    def begin(self) -> BilevelState:
        """Return the bilevel state of the plan that :meth:`make_plan` made.

        Raises:
            HyperparameterError: If the validation loss does not show the effect of tuning.
        """
        assert self._plan is not None, "make_plan makes it"
        (plan, layout), self._plan = self._plan, None
        self.validation.require_loss(self.hyperparameters.values)
        bilevel = self._begin(plan)
        bilevel.layout = layout
        bilevel.starts_flat = _is_flat(bilevel.responding_parameters)
        if bilevel.starts_flat:
            logger.warning(_FLAT)
        return bilevel

    def resume(self, saved: Mapping[str, Any]) -> BilevelState:
        """Make the bilevel state from a saved plan.

        Args:
            saved: The ``state_dict`` of a :class:`TuningPlan`.

        Raises:
            HyperparameterError: If this trial or the optimizer lacks a tuned hyperparameter.
        """
        missing = saved["readers"].keys() - self.trial.open_parameters.keys()
        if missing:
            raise HyperparameterError(
                f"The saved state tunes {', '.join(sorted(missing))}, which this trial has not "
                "suggested. Load it in the same objective, before the first step."
            )
        lost = [
            name
            for name, functions in saved["readers"].items()
            if name not in self.hyperparameters.weight_decay.names
            and any(function.endswith("(weight_decay=)") for function in functions)
        ]
        if lost:
            raise HyperparameterError(
                f"The saved state tunes {', '.join(lost)} as a weight decay, but the optimizer "
                "holds a plain number there. Make the Tuner before optimizer.load_state_dict(...), "
                "which overwrites the suggested one."
            )
        plan = TuningPlan.restored(saved, self.context.model)
        return self._begin(plan)

    def _repeated_on_part(self, batch: Any, first: _FirstPass) -> _FirstPass | None:
        """Repeat the first pass on so few examples that lengths tell the batch axis.

        The repetition takes no step and leaves no trace.

        Returns:
            The repetition; ``None`` if it fails because of a constant or of a matrix of examples by
            examples, such as the adjacency of the nodes of a graph, which fits the whole batch
            alone.
        """
        context, whole = self.context, first.layout
        size = clear_size(whole, whole.examples - 1, KnownLengths())
        try:
            with explaining_part(size, whole.examples, (Exception,)):
                part = part_of(batch, slice(0, size), whole.examples, context.batch_axis)
                layout = context.layout_of(part, records_axes=True)
                discovery = self._discovery(layout)
                repetition = _FirstPass(layout, discovery, first.state_before, first.parts)
                repetition.discovery.has_warned = first.discovery.has_warned
                with repeated_random_numbers(context.optimized_parameters[0]):
                    self._repeat(part, repetition)
        except UndividedBatchError:
            if whole.is_misled or not _are_relations(whole, batch):
                raise
            return None
        return repetition

    def _look_for_skipped_layers(self, batch: Any, last: _FirstPass) -> None:
        """Repeat a pass, which is also that of a part of the batch, until no further layer shows.

        A model may skip layers at random, as LayerDrop does. The repetitions draw other random
        numbers, take no step and leave no trace.
        """
        context, discovery = self.context, last.discovery
        whole = batch_size(batch, context.batch_axis)
        if last.layout.examples < whole:
            batch = part_of(batch, slice(0, last.layout.examples), whole, context.batch_axis)

        optimized = {id(p) for p in context.optimized_parameters if p.requires_grad}
        of_model = optimized & {id(p) for p in context.model.parameters()}

        def missing() -> int:
            return len(of_model - discovery.uses.keys() - discovery.hidden)

        count, fruitless = missing(), 0
        with repeated_random_numbers(context.optimized_parameters[0]):
            while count and fruitless < _FRUITLESS_REPETITIONS:
                self._repeat(batch, last)
                before, count = count, missing()
                fruitless = fruitless + 1 if count == before else 0

    def _repeat(self, batch: Any, known: _FirstPass) -> None:
        """Run the first pass once more, without a trace but in the discovery."""
        context, discovery = self.context, known.discovery
        with (
            context.model_state.repeated(known.state_before),
            inside(context.model, discovery, known.parts),
            discovery.restoring_parameters(context.model_state.parameters),
            discovery,
        ):
            context.loss_fn(context.model, batch)

    def _discovery(self, layout: BatchLayout) -> Discovery:
        trial = self.trial
        discovery = Discovery(
            self.hyperparameters.values,
            layout,
            {name: distribution for name, (distribution, _) in trial.open_parameters.items()},
            linear=trial.config.method == "delta-stn",
        )
        discovery.plain_readers.update(self.hyperparameters.optimizer_settings)
        return discovery

    def _begin(self, plan: TuningPlan) -> BilevelState:
        """Make the bilevel state, and store with the trial what is tuned and what is kept."""
        trial = self.trial
        open_parameters = trial.open_parameters
        bilevel = BilevelState(
            plan, open_parameters, self.context, trial.config, self.hyperparameters
        )
        self.context.ranks.take_from_first([*bilevel.response.parameters(), bilevel.space.raw])
        # A retry has stored some of them already.
        trial.store({n: open_parameters[n][1] for n in plan.kept if n in open_parameters})
        tuned = bilevel.space.parameters
        trial.set_user_attr(TUNED, list(tuned))
        trial.set_user_attr(CONFIG, asdict(trial.config))
        logger.info(
            f"Trial {trial.number}: {trial.config.method} tunes {', '.join(tuned)}"
            + (f"; kept as suggested: {', '.join(plan.kept)}." if plan.kept else ".")
        )
        return bilevel
