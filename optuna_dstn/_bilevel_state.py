"""What Δ-STN learns besides the weights: λ and σ, the response, and the optimizers of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from optuna_dstn._config import TunerConfig
from optuna_dstn._findings import Findings
from optuna_dstn._parameter_watch import ParameterWatch
from optuna_dstn._response import RESPONSES
from optuna_dstn._response_optimizer import OptimizerFactory, ResponseOptimizer
from optuna_dstn._space import Space


class BilevelState:
    """Made once the first step has settled what is tuned and what responds.

    Args:
        findings: What the first step settled.
        opened: Distribution and start value of each open hyperparameter.
        model: The model.
        optimizer: The user's optimizer.
        config: The method's settings.
        optimizer_factory: Makes the response's optimizer; ``None`` makes the one that ``config``
            asks for.

    Attributes:
        findings: As given.
        watch: Looks after the model's parameters from now on.
        space: λ and σ.
        drawn_alike: The hyperparameters of which all examples of a training batch get one draw.
        drawn_for_validation: Likewise of a validation batch.
        response: Θ.
        response_optimizer: Steps Θ.
        hyper_optimizer: Steps :attr:`trained`.
        trained: λ and, if it is tuned, ρ.
    """

    def __init__(
        self,
        findings: Findings,
        opened: Mapping[str, tuple[BaseDistribution, float]],
        model: nn.Module,
        optimizer: Optimizer,
        config: TunerConfig,
        optimizer_factory: OptimizerFactory | None,
    ) -> None:
        self.findings = findings
        self.watch = ParameterWatch(model, optimizer, findings)
        tuned = {name: opened[name] for name in findings.readers}
        weights = next(p for group in findings.responding for p in group.values())
        self.space = Space(
            {name: distribution for name, (distribution, _) in tuned.items()},
            {name: start for name, (_, start) in tuned.items()},
            scale=config.initial_scale,
            like=weights.detach(),
        )
        # A function that sees one Δ for the whole batch needs one ε for the whole batch.
        is_batchwise = config.perturbation == "batch" or bool(findings.alike)
        self.drawn_alike = self.space.names if is_batchwise else findings.shared
        self.drawn_for_validation = self.space.names if is_batchwise else ()
        self.response = RESPONSES[config.response](
            findings.responding, len(self.space), findings.axes, config.initial_scale
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
        """Restore what :meth:`state_dict` returned, for the same findings."""
        with torch.no_grad():
            self.space.raw.copy_(state["raw"])
            self.space.raw_scale.copy_(state["raw_scale"])
        self.response.load_state_dict(state["response"])
        self.response_optimizer.load_state_dict(state["response_optimizer"])
        self.hyper_optimizer.load_state_dict(state["hyper_optimizer"])
