"""The first step, which shows what is tuned and what responds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from optuna_dstn._errors import HyperparameterError, logger
from optuna_dstn.batch._batch import batch_size
from optuna_dstn.batch._layout import BatchLayout
from optuna_dstn.discovery._discovery import Discovery
from optuna_dstn.discovery._plan import TuningPlan, make_plan
from optuna_dstn.linearize._linearize import inside
from optuna_dstn.study._attributes import CONFIG, TUNED
from optuna_dstn.study._trial import DSTNTrial
from optuna_dstn.training._bilevel_state import BilevelState
from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._current_hyperparameters import CurrentHyperparameters
from optuna_dstn.training._outer_variables import OuterVariables
from optuna_dstn.training._validation import Validation
from optuna_dstn.training._weight_step import WeightStep


@dataclass
class FirstStep:
    """Makes the bilevel state, from an ordinary step on the weights or from a saved plan.

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

    def train_on(self, batch: Any) -> tuple[float, BilevelState]:
        """Train the weights on the first batch, and find what is tuned and what responds.

        Returns:
            The training loss of the batch, before the step, and the bilevel state.

        Raises:
            HyperparameterError: If a hyperparameter is used in a way that cannot be tuned, or
                nothing is tuned, or the validation loss does not show the effect of tuning.
        """
        discovery = self._discovery(batch)

        @contextmanager
        def forward_mode() -> Iterator[None]:
            with inside(self.context.model, discovery), discovery:
                yield

        outer_variables = OuterVariables(self.context.loss_fn, self.context.model_state)
        loss = WeightStep(self.context, forward_mode).train_on(batch)
        outer_variables.warn_of_changes()
        plan = make_plan(
            discovery,
            self.hyperparameters.weight_decay.parameters,
            self.trial.open_parameters,
            self.trial.enqueued_names,
            self.context.model,
            self.context.optimizer,
            each_example=self.trial.config.perturbation == "example",
        )
        self.validation.require_loss(self.hyperparameters.values)
        return loss, self._begin(plan)

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
        plan = TuningPlan.restored(saved, self.context.model, self.trial.open_parameters)
        return self._begin(plan)

    def _discovery(self, batch: Any) -> Discovery:
        context, trial = self.context, self.trial
        examples = batch_size(batch, context.batch_axis)
        discovery = Discovery(
            self.hyperparameters.values,
            BatchLayout(examples, context.batch_axis),
            {name: distribution for name, (distribution, _) in trial.open_parameters.items()},
            linear=trial.config.method == "delta-stn",
        )
        discovery.plain_readers.update(self.hyperparameters.optimizer_settings)
        discovery.take(batch)
        return discovery

    def _begin(self, plan: TuningPlan) -> BilevelState:
        """Make the bilevel state, and store with the trial what is tuned and what is kept."""
        trial = self.trial
        open_parameters = trial.open_parameters
        bilevel = BilevelState(
            plan, open_parameters, self.context, trial.config, self.hyperparameters
        )
        trial.store({name: open_parameters[name][1] for name in plan.kept})
        tuned = bilevel.space.parameters
        trial.set_user_attr(TUNED, list(tuned))
        trial.set_user_attr(CONFIG, asdict(trial.config))
        logger.info(
            f"Trial {trial.number}: {trial.config.method} tunes {', '.join(tuned)}"
            + (f"; kept as suggested: {', '.join(plan.kept)}." if plan.kept else ".")
        )
        return bilevel
