"""Self-tuning networks: weights, their response and the hyperparameters trained together.

The bilevel problem min_λ L_V(w*(λ)), w*(λ) = argmin_w L_T(λ, w), is solved in one run. Steps on the
weights w, on their response to λ and on λ alternate. The methods differ in the steps that they take
(:func:`_steps_of`):

============== ==================== ==================== =======================
method         weights              response             hyperparameters
============== ==================== ==================== =======================
"delta-stn"    an ordinary step     ``ResponseStep``,    ``HyperparameterStep``
                                    network linearised
"centered-stn" an ordinary step     ``ResponseStep``     ``HyperparameterStep``
"stn"          ``JointStep``        with the weights     ``HyperparameterStep``,
                                                         weights follow λ
============== ==================== ==================== =======================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from optuna_dstn._errors import logger
from optuna_dstn.linearize._torch_call_mode import ValidationValues
from optuna_dstn.study._attributes import START
from optuna_dstn.study._trial import DSTNTrial
from optuna_dstn.training._bilevel_state import BilevelState
from optuna_dstn.training._context import TrainingContext
from optuna_dstn.training._coupling import share_if_coupled
from optuna_dstn.training._current_hyperparameters import CurrentHyperparameters
from optuna_dstn.training._first_step import FirstStep
from optuna_dstn.training._hyperparameter_step import HyperparameterStep
from optuna_dstn.training._joint_step import JointStep
from optuna_dstn.training._model_state import Snapshot
from optuna_dstn.training._pace import Pace
from optuna_dstn.training._perturbed_loss import PerturbedLoss
from optuna_dstn.training._response_step import ResponseStep
from optuna_dstn.training._summary import Summary
from optuna_dstn.training._training import Training
from optuna_dstn.training._validation import Validation


NO_PARTS = (
    'Tuner.forward(batch) under TunerConfig(method="stn"): this method trains weights and response '
    "in one pass, which has no parts. Call Tuner.step(batch) in place of the loop's own step, or "
    'take the method "delta-stn" or "centered-stn".'
)
KEPT_BEFORE = "kept by the trial that this one retries"


class Steps(NamedTuple):
    """The steps that a method takes besides the ordinary step on the weights.

    Attributes:
        joint: In "stn" the step on weights and response, in place of the ordinary one.
        response: In the other methods the step on the response.
        hyperparameters: The step on the hyperparameters.
    """

    joint: JointStep | None
    response: ResponseStep | None
    hyperparameters: HyperparameterStep


def _steps_of(context: TrainingContext, bilevel: BilevelState, validation: Validation) -> Steps:
    """Return the steps of the method that ``bilevel.config`` names."""
    perturbed_loss = PerturbedLoss(context, bilevel)
    if bilevel.config.method == "stn":
        joint = JointStep(context, bilevel, perturbed_loss)
        hyperparameters = HyperparameterStep(context, bilevel, validation, joint.follow)
        return Steps(joint, None, hyperparameters)
    response = ResponseStep(context, bilevel, perturbed_loss)
    return Steps(None, response, HyperparameterStep(context, bilevel, validation))


class _WaitingPass(NamedTuple):
    """A pass of the response that is still to be run.

    Attributes:
        batch: The batch of the pass.
        state_before: The state of the model before the weights' pass on the batch.
    """

    batch: Any
    state_before: Snapshot


class SelfTuning(Training):
    """Training in which the hyperparameters that reach torch are tuned by gradient.

    The first step shows what is tuned and what responds.

    Args:
        trial: A trial of a Δ-STN study.
        context: The user's objects and settings.

    Attributes:
        hyperparameter_steps: The number of steps taken on the hyperparameters so far.
        start: The start values of the run; after a resumption, those of the first trial.
    """

    def __init__(self, trial: DSTNTrial, context: TrainingContext) -> None:
        super().__init__(context)
        self._trial = trial
        self._config = trial.config
        self._warmup_steps = Pace.of(trial.config, context.total_steps).warmup_steps
        start = {name: value for name, (_, value) in trial.open_parameters.items()}
        self.start: Mapping[str, float] = start
        self.hyperparameter_steps = 0
        self._current = CurrentHyperparameters(start, context.optimizer)
        self._validation = Validation(context)
        self._first_step = FirstStep(trial, context, self._current, self._validation)
        self._bilevel: BilevelState | None = None
        self._steps: Steps | None = None
        self._state_before: Snapshot | None = None  # before the last forward pass
        self._waiting: _WaitingPass | None = None

    # -- the loop --------------------------------------------------------------------------------

    def step(self, batch: Any) -> float:
        progress = self.context.progress
        # STN's first step is an ordinary one, which shows what is tuned.
        if self._config.method != "stn" or progress.steps == 0:
            return super().step(batch)
        assert self.steps.joint is not None, "the method has one"
        self._current.write_to_optimizer()
        self.bilevel.require_unchanged()
        loss = self.steps.joint.train_on(batch)
        self.bilevel.watch.warn_of_late()
        is_last = progress.is_last_of_step
        progress.count_batch()
        if is_last:
            self._finish_step()
        return loss

    @contextmanager
    def forward(self, batch: Any) -> Iterator[None]:
        self._run_waiting_pass()  # a second batch before the step: the gradients accumulate
        needs_state = self._is_response_due() or self._bilevel is None
        self._state_before = self.context.model_state.snapshot() if needs_state else None
        self._current.write_to_optimizer()
        with self._forward_mode(batch):
            yield

    def _forward_mode(self, batch: Any) -> AbstractContextManager[Any]:
        if self._bilevel is None:
            assert self._state_before is not None, "the first step takes it"
            return self._first_step.forward(batch, self._state_before)
        self._bilevel.require_unchanged()
        return self._bilevel.forward_mode(batch)

    def after_backward(self, batch: Any) -> None:
        """Add the response's gradient on a batch.

        If the batch may be the only one of its step, the pass of the response waits for
        :meth:`after_step`. Then the pass runs at the weights after the step.
        """
        if self._bilevel is None:
            self._first_step.make_plan(batch)
        else:
            self._bilevel.watch.warn_of_late()
        state, self._state_before = self._state_before, None
        if state is not None:
            self._waiting = _WaitingPass(batch, state)
        if self.context.progress.is_accumulating:
            self._run_waiting_pass()
        super().after_backward(batch)

    def after_step(self) -> None:
        self._run_waiting_pass(is_step_taken=True)
        if self._is_response_due() and self.steps.response is not None:
            self.steps.response.finish()
        self._finish_step()

    def _run_waiting_pass(self, *, is_step_taken: bool = False) -> None:
        """Add the response's gradient on the batch that waits, if one does."""
        if self._waiting is None:
            return
        (batch, state_before), self._waiting = self._waiting, None
        is_first = self._bilevel is None
        if is_first:
            self._begin(self._first_step.begin())
        response = self.steps.response
        if is_step_taken and response is not None:
            self.context.optimizer.zero_grad()  # frees memory for the gradients of the response
        with self.context.model_state.rewound(state_before):
            if is_first and self._config.perturbation == "auto":
                share_if_coupled(self.context, self.bilevel, batch)
            if response is not None:
                response.add_gradient(batch)

    def _finish_step(self) -> None:
        super().after_step()
        if self.context.progress.steps == 1:
            self.context.ranks.require_same_weights(self.context.optimized_parameters)
        if self._are_hyperparameters_due():
            self._train_hyperparameters()

    def _is_response_due(self) -> bool:
        has_own_step = self._config.method != "stn"
        return has_own_step and self.context.progress.steps % self._config.response_interval == 0

    def _are_hyperparameters_due(self) -> bool:
        steps_since_warmup = self.context.progress.steps - self._warmup_steps
        return steps_since_warmup > 0 and steps_since_warmup % self._config.train_steps == 0

    def _train_hyperparameters(self) -> None:
        self.bilevel.require_all_read()
        for _ in range(self._config.valid_steps):
            self.steps.hyperparameters.take()
            self.hyperparameter_steps += 1
        self._trial.deferred.last_values = self.hyperparameters

    # -- after the first step --------------------------------------------------------------------

    @property
    def bilevel(self) -> BilevelState:
        """λ, σ and the response; there from the first step on."""
        assert self._bilevel is not None, "the first step makes it"
        return self._bilevel

    @property
    def steps(self) -> Steps:
        """The steps of the method; there from the first step on."""
        assert self._steps is not None, "the first step makes them"
        return self._steps

    def _begin(self, bilevel: BilevelState) -> None:
        self._bilevel = bilevel
        self._steps = _steps_of(self.context, bilevel, self._validation)
        self._store_start()

    def _store_start(self) -> None:
        start = {name: self.start[name] for name in self.bilevel.space.names}
        self._trial.set_user_attr(START, self._trial.parameter_values(start))

    # -- what the Tuner asks ---------------------------------------------------------------------

    @property
    def method(self) -> str:
        return self._config.method

    def final_hyperparameters(self) -> dict[str, float]:
        """Return the values at the end of the trial; warn if the trial was too short to tune."""
        has_begun = self._bilevel is not None
        is_cut_short = self._trial.is_pruned or self._trial.has_failed
        if has_begun and not self.hyperparameter_steps and not is_cut_short:
            logger.warning(
                f"Trial {self._trial.number} ended after {self.context.progress.steps} steps, "
                f"before its first step on the hyperparameters: {', '.join(self.tuned)} kept their "
                f"start values. {self._advice_to_short_training}"
            )
        return self.hyperparameters

    @property
    def _advice_to_short_training(self) -> str:
        if self._config.warmup_steps is None and self.context.total_steps is None:
            return (
                f"Without a known length of the training they move after {self._warmup_steps} "
                "steps: say how many steps of the optimizer it takes, Tuner(total_steps=...), or "
                "let fit train."
            )
        return (
            "Train longer, or shorten TunerConfig(warmup_steps="
            f"{self._warmup_steps}, train_steps={self._config.train_steps})."
        )

    def validation_mode(self) -> AbstractContextManager[Any]:
        return ValidationValues(self._current.values)

    @property
    def hyperparameters(self) -> dict[str, float]:
        return dict(self._current.values)

    @property
    def sigmas(self) -> dict[str, float]:
        return {} if self._bilevel is None else self._bilevel.space.current_scale()

    @property
    def tuned(self) -> tuple[str, ...]:
        return () if self._bilevel is None else self._bilevel.space.parameters

    def summary(self) -> Summary:
        if self._bilevel is None:
            raise RuntimeError(
                "What is tuned and what responds is found in the first step: call "
                "Tuner.step(batch) before Tuner.summary()."
            )
        plan = self._bilevel.plan
        return Summary(
            method=self.method,
            hyperparameter_steps=self.hyperparameter_steps,
            tuned=plan.readers,
            shared=plan.shared,
            kept={**dict.fromkeys(self._trial.stored_numbers, KEPT_BEFORE), **plan.kept},
            one_perturbation=plan.one_perturbation,
            responding=self._bilevel.response.names,
            shared_in_batch=plan.shared_in_batch,
            without_rule=plan.without_rule,
            centred=tuple(sorted(self._bilevel.centred)),
            not_responding=plan.not_responding,
        )

    def state_dict(self) -> dict[str, Any]:
        if self._waiting is not None:
            raise RuntimeError(
                "Tuner.state_dict() between Tuner.after_backward(batch) and Tuner.after_step(): "
                "the step is not complete. Save the state after Tuner.after_step()."
            )
        state: dict[str, Any] = {
            **super().state_dict(),
            "hyperparameter_steps": self.hyperparameter_steps,
            "start": dict(self.start),
            "validation": self._validation.batches.state_dict(),
            "response": self._config.response,
            "plan": None,
        }
        if self._bilevel is not None:
            state["plan"] = self._bilevel.plan.state_dict()
            state["bilevel"] = self._bilevel.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["response"] != self._config.response:
            raise ValueError(
                f"The state was saved under TunerConfig(response={state['response']!r}), and this "
                f"study has response={self._config.response!r}. Resume with the same TunerConfig."
            )
        if state["plan"] is not None:
            self.start = dict(state["start"])
            if self._bilevel is None:
                self._begin(self._first_step.resume(state["plan"]))
            else:
                self._store_start()
            self.bilevel.load_state_dict(state["bilevel"])
        self.hyperparameter_steps = state["hyperparameter_steps"]
        self._validation.batches.load_state_dict(state["validation"])
        super().load_state_dict(state)

    def _tensors_with_gradient(self) -> list[Tensor]:
        response = [] if self._bilevel is None else self._bilevel.response.parameters()
        return [*super()._tensors_with_gradient(), *response]
