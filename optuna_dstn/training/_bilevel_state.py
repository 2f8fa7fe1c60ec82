"""What Δ-STN learns besides the weights: λ and σ, the response, and the optimizers of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from optuna_dstn.discovery._parameter_watch import ParameterWatch
from optuna_dstn.discovery._plan import TuningPlan
from optuna_dstn.response._optimizer import OptimizerFactory, ResponseOptimizer
from optuna_dstn.response._response import RESPONSES
from optuna_dstn.space import Space
from optuna_dstn.study._config import TunerConfig


class BilevelState:
    """Made once the first step has settled what is tuned and what responds.

    Args:
        plan: What the first step settled.
        opened: Distribution and start value of each open hyperparameter.
        model: The model.
        optimizer: The user's optimizer.
        config: The method's settings.
        optimizer_factory: Makes the response's optimizer; ``None`` makes the one that ``config``
            asks for.

    Attributes:
        plan: As given.
        watch: Looks after the model's parameters from now on.
        space: λ and σ.
        shared_draws: The hyperparameters of which all examples of a training batch get one draw.
        shared_validation_draws: Likewise of a validation batch.
        response: Θ.
        response_optimizer: Steps Θ.
        hyper_optimizer: Steps :attr:`trained`.
        trained: λ and, if it is tuned, ρ.
        lengths: What is known of the lengths of axes, to find the batch's.
    """

    def __init__(
        self,
        plan: TuningPlan,
        opened: Mapping[str, tuple[BaseDistribution, float]],
        model: nn.Module,
        optimizer: Optimizer,
        config: TunerConfig,
        optimizer_factory: OptimizerFactory | None,
    ) -> None:
        self.plan = plan
        self.lengths = plan.lengths
        self.watch = ParameterWatch(model, optimizer, plan)
        tuned = {name: opened[name] for name in plan.readers}
        weights = next(p for group in plan.responding for p in group.values())
        self.space = Space(
            {name: distribution for name, (distribution, _) in tuned.items()},
            {name: start for name, (_, start) in tuned.items()},
            scale=config.initial_scale,
            like=weights.detach(),
        )
        # A function that sees one Δ for the whole batch needs one ε for the whole batch.
        is_batchwise = config.perturbation == "batch" or bool(plan.shared_in_batch)
        self.shared_draws = self.space.names if is_batchwise else plan.shared
        self.shared_validation_draws = self.space.names if is_batchwise else ()
        self.response = RESPONSES[config.response](
            plan.responding, len(self.space), plan.axes, config.initial_scale
        )
        # The first method's response is a part of the weights, so it is trained as they are.
        lr = None if config.method == "stn" else config.response_lr
        self.response_optimizer = ResponseOptimizer(
            self.response.parameter_groups(), optimizer, lr, optimizer_factory
        )
        groups: list[dict[str, Any]] = [{"params": [self.space.raw], "lr": config.hyper_lr}]
        if config.tune_scale:
            groups.append({"params": [self.space.raw_scale], "lr": config.scale_lr})
        # RMSprop with its mean square corrected for the start at zero: the first steps would be ten
        # times as long otherwise, while the response is hardly trained.
        self.hyper_optimizer = Adam(groups, betas=(0.0, 0.99))
        self.trained: list[Tensor] = [tensor for group in groups for tensor in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""
        return {
            "raw": self.space.raw.detach().clone(),
            "raw_scale": self.space.raw_scale.detach().clone(),
            "response": self.response.state_dict(),
            "response_optimizer": self.response_optimizer.state_dict(),
            "hyper_optimizer": self.hyper_optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, for the same plan."""
        with torch.no_grad():
            self.space.raw.copy_(state["raw"])
            self.space.raw_scale.copy_(state["raw_scale"])
        self.response.load_state_dict(state["response"])
        self.response_optimizer.load_state_dict(state["response_optimizer"])
        self.hyper_optimizer.load_state_dict(state["hyper_optimizer"])
