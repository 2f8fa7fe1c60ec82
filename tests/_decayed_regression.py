"""A small regression whose weight decay is tuned, by any of the methods."""

from __future__ import annotations

from typing import Any

from _problems import small_regression, squared_error
from _reference import started
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from optuna_dstn import TunerConfig


class DecayedRegression:
    """A regression that overfits, whose weight decay is tuned from its start value.

    Args:
        method: Of the configuration.
        start: The weight decay; the best is near 0.3.
        kind: Of the optimizer.
        outside: Parameters of no model, in the optimizer's group too.
        max_grad_norm: Of the Tuner.
    """

    def __init__(
        self,
        method: str,
        start: float = 0.3,
        kind: Any = Adam,
        outside: list[Tensor] | None = None,
        max_grad_norm: float | None = None,
        **settings: Any,
    ) -> None:
        self.train, self.valid = small_regression()

        def make(trial: Any) -> tuple[nn.Module, Optimizer]:
            self.model = nn.Sequential(nn.Linear(12, 1), nn.Flatten(0))
            self.optimizer = kind(
                [*self.model.parameters(), *(outside or [])],
                lr=0.02,
                weight_decay=trial.suggest_float("decay", 1e-3, 10.0, log=True),
            )
            return self.model, self.optimizer

        chosen = {"warmup_steps": 40, "train_steps": 2, "hyper_lr": 0.1, **settings}
        self.tuner = started(
            make,
            lambda model, batch: self.loss(model, batch),
            [self.valid],
            valid_loss_fn=squared_error,
            start={"decay": start},
            config=TunerConfig(method=method, **chosen),
            max_grad_norm=max_grad_norm,
        )

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return squared_error(model, batch)

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.tuner.step(self.train)

    @property
    def bilevel(self) -> Any:
        training: Any = self.tuner._training
        return training.bilevel

    def origin(self) -> Tensor:
        """φ0, that is the weights less Φλ."""
        response = self.bilevel.response
        terms = response.deltas(response.gates(self.bilevel.space.raw[None]))
        moved = [
            (p - torch.stack([t.per_example()[0] for t in terms[id(p)]]).sum(0)).flatten()
            for p in self.model.parameters()
        ]
        return torch.cat(moved).detach()
