"""Δ-STN: weights, their response and the hyperparameters trained together, in one run.

The bilevel problem min_λ L_V(w*(λ)), w*(λ) = argmin_w L_T(λ, w), is solved by alternating

1. w0:   a gradient step on L_T(λ, w0), unperturbed;
2. Θ:    a gradient step on E_ε L_T(λ + ε, w0 + Θε), the network linearised at w0;
3. λ, σ: every ``train_steps``, a gradient step on E_ε L_V(w0 + Θε') − τ·H(ε), linearised likewise,
   with ε' = λ − stop_grad(λ) + ε and Θ fixed

(Bae & Grosse, 2020, "Delta-STN: Efficient Bilevel Optimization for Neural Networks using Structured
Response Jacobians", algorithm 1). ε has one row per example.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import optuna
import torch
from torch import nn
from torch.optim import Optimizer, RMSprop

from optuna_dstn._attributes import CONFIG, START, TUNED
from optuna_dstn._batch import EndlessBatches, batch_size, mean_loss
from optuna_dstn._config import TunerConfig
from optuna_dstn._discovery import Findings, settle
from optuna_dstn._errors import HyperparameterError
from optuna_dstn._evaluation import LossFunction, evaluating
from optuna_dstn._hyperparameter import Hyperparameter, plain
from optuna_dstn._interception import (
    CurrentValues,
    Discovery,
    Interception,
    LinearisedValidation,
    PerturbedValues,
    ValidationValues,
)
from optuna_dstn._linearize import linearised, require_merged
from optuna_dstn._response import Response
from optuna_dstn._response_optimizer import OptimizerFactory, ResponseOptimizer
from optuna_dstn._space import Space
from optuna_dstn._summary import Summary
from optuna_dstn._training import Training, clipped_gradient_norm, require_finite
from optuna_dstn._trial import DSTNTrial
from optuna_dstn._weight_decay import WeightDecay


_VALID_LOSS = "The validation loss function"
_CUT_OFF = (
    "The training loss does not depend on the response: no gradient reaches it. Check that nothing "
    "in the model cuts the graph (detach, no_grad, checkpoint(use_reentrant=True)) between its "
    "layers and its output."
)

# A child of Optuna's logger: optuna.logging.set_verbosity governs it.
_logger = optuna.logging.get_logger("optuna.dstn")


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
        config: The method's settings.
        optimizer_factory: Makes the optimizer of the response from its tensors; ``None`` makes one
            of the same class and settings as ``optimizer``.
        max_grad_norm: Clips the gradients of weights and response, each to this norm; ``None`` does
            not.

    Attributes:
        hyperparameter_steps: Steps taken on the hyperparameters so far.
    """

    def __init__(
        self,
        trial: DSTNTrial,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: LossFunction,
        valid_loader: Iterable[Any],
        valid_loss_fn: LossFunction,
        config: TunerConfig,
        optimizer_factory: OptimizerFactory | None,
        max_grad_norm: float | None = None,
    ) -> None:
        self.steps = 0
        self.hyperparameter_steps = 0
        self._trial = trial
        self._model = model
        self._optimizer = optimizer
        self._loss_fn = loss_fn
        self._valid_loss_fn = valid_loss_fn
        self._config = config
        self._optimizer_factory = optimizer_factory
        self._max_grad_norm = max_grad_norm

        self._weight_decay = WeightDecay(optimizer)
        _make_plain(optimizer)
        self._values: dict[str, float] = {
            name: value for name, (_, value) in trial.open_parameters.items()
        }
        self._weight_decay.set(self._values)
        self._valid_batches = EndlessBatches(valid_loader)
        self._findings: Findings | None = None

    # -- the three steps -------------------------------------------------------------------------

    def step(self, batch: Any) -> float:
        examples = batch_size(batch)
        if self._findings is None:
            loss = self._discovering_weight_step(batch, examples)
        else:
            self._space.require_same_place(self._model)
            mode = CurrentValues(self._values, frozenset(self._space.names))
            loss = self._weight_step(mode, batch, examples)
        self._response_step(batch, examples)
        self.steps += 1
        since_warmup = self.steps - self._config.warmup_steps
        if since_warmup > 0 and since_warmup % self._config.train_steps == 0:
            for _ in range(self._config.valid_steps):
                self._hyperparameter_step()
        return loss

    def _discovering_weight_step(self, batch: Any, examples: int) -> float:
        """Take the first weight step, and settle what is tuned and what responds."""
        met = Discovery(self._values, examples)
        loss = self._weight_step(met, batch, examples)
        findings = settle(met, self._weight_decay.names, self._trial, self._model, self._optimizer)
        self._check_validation_loss()
        self._start(findings)
        return loss

    def _weight_step(self, mode: Interception, batch: Any, examples: int) -> float:
        self._optimizer.zero_grad()
        with mode:
            loss = mean_loss(self._loss_fn(self._model, batch), examples, "loss_fn")
        value = loss.item()
        self._require_finite(value, "training loss")
        loss.backward()
        norm = clipped_gradient_norm(self._optimizer, self._max_grad_norm)
        self._require_finite(norm, "gradient of the training loss")
        self._optimizer.step()
        return value

    def _response_step(self, batch: Any, examples: int) -> None:
        space = self._space
        with torch.no_grad():
            perturbation = space.perturbation(examples)
            perturbed = space.columns(space.constrain(space.raw + perturbation))
        deltas = self._response.deltas(perturbation)
        with linearised(self._model, PerturbedValues(self._values, deltas, perturbed)):
            loss = mean_loss(self._loss_fn(self._model, batch), examples, "loss_fn")
            require_merged(loss, "loss_fn")
        loss = loss + self._weight_decay.response_loss(deltas, perturbed)
        if not loss.requires_grad:
            raise HyperparameterError(_CUT_OFF)
        self._require_finite(loss.item(), "training loss of the response")
        self._response_optimizer.zero_grad()
        loss.backward()
        norm = clipped_gradient_norm(self._response_optimizer.optimizer, self._max_grad_norm)
        self._require_finite(norm, "gradient of the response's training loss")
        if not norm and not self.steps:
            raise HyperparameterError(_CUT_OFF)
        self._response_optimizer.step()

    def _hyperparameter_step(self) -> None:
        batch = next(self._valid_batches)
        examples = batch_size(batch)
        space = self._space
        # Its value is ε; its derivative with respect to λ is the identity.
        point = space.raw - space.raw.detach() + space.perturbation(examples)
        deltas = self._response.deltas(point)
        mode = LinearisedValidation(self._values, deltas)
        with evaluating(self._model), linearised(self._model, mode):
            loss = mean_loss(self._valid_loss_fn(self._model, batch), examples, _VALID_LOSS)
            require_merged(loss, _VALID_LOSS)
        objective = loss - self._config.entropy_weight * space.entropy()
        self._require_finite(objective.item(), "validation loss at the perturbed hyperparameters")
        gradients = torch.autograd.grad(objective, self._trained)
        self._require_finite(torch.cat(gradients).sum().item(), "hypergradient")
        for tensor, gradient in zip(self._trained, gradients, strict=True):
            tensor.grad = gradient
        self._hyper_optimizer.step()
        self.hyperparameter_steps += 1
        self._set_values(self._space.current())

    # -- what the first step settles -------------------------------------------------------------

    def _start(self, findings: Findings) -> None:
        """Make λ, the response and their optimizers, and store what is settled."""
        trial, config = self._trial, self._config
        opened = trial.open_parameters
        start = {name: opened[name][1] for name in findings.readers}
        weights = next(p for group in findings.responding for p in group.values())
        self._space = Space(
            {name: opened[name][0] for name in findings.readers},
            start,
            scale=config.initial_scale,
            like=weights.detach(),
        )
        self._response = Response(findings.responding, len(self._space))
        self._response_optimizer = ResponseOptimizer(
            self._response.parameter_groups(), self._optimizer, self._optimizer_factory
        )
        groups: list[dict[str, Any]] = [{"params": [self._space.raw], "lr": config.hyper_lr}]
        if config.tune_scale:
            groups.append({"params": [self._space.raw_scale], "lr": config.scale_lr})
        self._hyper_optimizer = RMSprop(groups)
        self._trained = [tensor for group in groups for tensor in group["params"]]
        self._findings = findings

        trial.store({name: opened[name][1] for name in findings.kept})
        trial.set_user_attr(START, start)
        trial.set_user_attr(TUNED, list(self._space.names))
        trial.set_user_attr(CONFIG, asdict(config))
        _logger.info(
            f"Trial {trial.number}: {config.method} tunes {', '.join(self._space.names)}"
            + (f"; kept as suggested: {', '.join(findings.kept)}." if findings.kept else ".")
        )

    def _check_validation_loss(self) -> None:
        """Meet every mistake in the validation loss now, not after the warm-up."""
        batch = next(self._valid_batches)
        with torch.no_grad(), evaluating(self._model), self.reading_validation():
            loss = mean_loss(
                self._valid_loss_fn(self._model, batch), batch_size(batch), _VALID_LOSS
            )
        self._require_finite(loss.item(), "validation loss")

    def _set_values(self, values: Mapping[str, float]) -> None:
        self._values = {**self._values, **values}
        self._weight_decay.set(self._values)

    def _require_finite(self, value: float, what: str) -> None:
        require_finite(value, what, self.steps, self._values)

    # -- the Tuner's questions -------------------------------------------------------------------

    def final_hyperparameters(self) -> dict[str, float]:
        """Return the values at the end of the trial; warn if tuning never began."""
        if self._findings is not None and not self.hyperparameter_steps:
            _logger.warning(
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
    def scales(self) -> dict[str, float]:
        return {} if self._findings is None else self._space.current_scale()

    @property
    def tuned(self) -> tuple[str, ...]:
        return () if self._findings is None else self._space.names

    def summary(self) -> Summary:
        if self._findings is None:
            raise RuntimeError(
                "What is tuned and what responds is found in the first step: call "
                "Tuner.step(batch) before Tuner.summary()."
            )
        return Summary(
            method=self._config.method,
            hyperparameter_steps=self.hyperparameter_steps,
            tuned=self._findings.readers,
            kept=self._findings.kept,
            responding=self._response.names,
            not_responding=self._findings.not_responding,
        )

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "steps": self.steps,
            "hyperparameter_steps": self.hyperparameter_steps,
        }
        if self._findings is not None:
            state |= {
                "valid_batches_drawn": self._valid_batches.drawn,
                "findings": {
                    "readers": dict(self._findings.readers),
                    "kept": dict(self._findings.kept),
                    "responding": [list(group) for group in self._findings.responding],
                    "not_responding": dict(self._findings.not_responding),
                },
                "values": dict(self._values),
                "raw": self._space.raw.detach().clone(),
                "raw_scale": self._space.raw_scale.detach().clone(),
                "response": self._response.state_dict(),
                "response_optimizer": self._response_optimizer.state_dict(),
                "hyper_optimizer": self._hyper_optimizer.state_dict(),
            }
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self.hyperparameter_steps = state["hyperparameter_steps"]
        if "findings" not in state:
            return
        if self._findings is None:
            self._start(self._restored_findings(state["findings"]))
        with torch.no_grad():
            self._space.raw.copy_(state["raw"])
            self._space.raw_scale.copy_(state["raw_scale"])
        self._response.load_state_dict(state["response"])
        self._response_optimizer.load_state_dict(state["response_optimizer"])
        self._hyper_optimizer.load_state_dict(state["hyper_optimizer"])
        self._valid_batches.skip_to(state["valid_batches_drawn"])
        self._set_values(state["values"])

    def _restored_findings(self, saved: Mapping[str, Any]) -> Findings:
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
        parameters = dict(self._model.named_parameters())
        return Findings(
            readers=saved["readers"],
            kept={n: why for n, why in saved["kept"].items() if n in self._trial.open_parameters},
            responding=tuple({n: parameters[n] for n in group} for group in saved["responding"]),
            not_responding=saved["not_responding"],
        )


def _make_plain(optimizer: Optimizer) -> None:
    """Leave plain numbers (lr=h, momentum=h) in the optimizer, as its checkpoints should hold."""
    for group in optimizer.param_groups:
        for key, value in group.items():
            if isinstance(value, Hyperparameter):
                group[key] = plain(value)
