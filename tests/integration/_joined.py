"""A training that two processes share, or one process with their batches joined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW

import optuna_dstn
from optuna_dstn import Tuner, TunerConfig
from optuna_dstn.integration.distributed import distributed_trial
from optuna_dstn.space import Space


Batch = tuple[Tensor, Tensor]
START = {"smoothing": 0.2, "scale": 0.5, "decay": 0.01}
STEPS = 8


class Net(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(torch.sin(x * self.scale) if self.training else x)


def batches(rank: int, count: int, seed: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed + rank)
    return [
        (torch.randn(6, 4, generator=generator), torch.randint(3, (6,), generator=generator))
        for _ in range(count)
    ]


def joined(count: int, seed: int) -> list[Batch]:
    pairs = zip(batches(0, count, seed), batches(1, count, seed), strict=True)
    return [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in pairs]


def draw_as(ranks: list[int]) -> None:
    """Let the perturbations of this process be those of some ranks."""
    generators = [torch.Generator().manual_seed(rank) for rank in ranks]

    def perturbation(space: Space, examples: int, shared: Any = ()) -> Tensor:
        shape = examples // len(ranks), len(space)
        noise = [torch.randn(shape, generator=generator) for generator in generators]
        return space.scale * torch.cat(noise)

    Space.perturbation = perturbation  # type: ignore[method-assign]


def trained(options: Mapping[str, Any], is_joined: bool) -> dict[str, Any]:
    """Train for some steps, and return what came of it."""
    rank = 0 if is_joined else distributed.get_rank()
    torch.manual_seed(rank)  # the weights of the first process count
    draw_as([0, 1] if is_joined else [rank])
    trial = started(options.get("config", {})) if rank == 0 else None
    if not is_joined:
        trial = distributed_trial(trial)
    model: nn.Module = Net(trial.suggest_float("scale", 0.1, 2.0))
    smoothing = trial.suggest_float("smoothing", 0.0, 0.9)
    if not is_joined:
        model = DistributedDataParallel(model)
    kind = AdamW if options.get("is_adam") else SGD
    decay = trial.suggest_float("decay", 1e-4, 0.1, log=True)
    optimizer = kind(model.parameters(), lr=0.05, weight_decay=decay)

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1], label_smoothing=smoothing)

    def valid_loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    train, valid = (
        (joined(STEPS, 1), joined(2, 90))
        if is_joined
        else (batches(rank, STEPS, 1), batches(rank, 2, 90))
    )
    tuner = Tuner(
        trial,
        model,
        optimizer,
        loss_fn,
        valid,
        valid_loss_fn=valid_loss_fn,
        **options.get("tuner", {}),
    )
    for batch in train:
        if not options.get("in_parts"):
            tuner.step(batch)
            continue
        optimizer.zero_grad()
        with tuner.forward(batch):
            loss = loss_fn(model, batch)
        loss.backward()
        tuner.after_backward(batch)
        optimizer.step()
        tuner.after_step()
    response = tuner._training.bilevel.response.parameters()  # type: ignore[attr-defined]
    return {
        "weights": [w for p in model.parameters() for w in p.flatten().tolist()],
        "response": [w for p in response for w in p.flatten().tolist()],
        "hyperparameters": tuner.hyperparameters,
        "value": tuner.evaluate(),
        "tuned": tuner.tuned,
    }


def started(config: Mapping[str, Any]) -> Any:
    config = {"warmup_steps": 1, "train_steps": 1, "response_interval": 1} | config
    study = optuna_dstn.create_study(config=TunerConfig(**config))
    study.enqueue_trial(START)
    return study.ask()
