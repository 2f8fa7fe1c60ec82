"""Δ-STN on a CUDA device; run by `make test-gpu`."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import optuna_dstn


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def loss_fn(model, batch):
    x, y = batch
    return F.cross_entropy(model(x.cuda()), y.cuda())


def test_batches_on_the_cpu_tune_a_model_on_the_gpu():
    generator = torch.Generator().manual_seed(0)
    batch = torch.rand(32, 1, 8, 8, generator=generator), torch.arange(32) % 10

    def objective(trial):
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Dropout2d(trial.suggest_float("channels", 0.0, 0.9)),
            nn.Flatten(),
            nn.Dropout(trial.suggest_float("units", 0.0, 0.9)),
            nn.Linear(144, 10),
        ).cuda()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, [batch])
        for _ in range(20):
            tuner.step(batch)
        return tuner.evaluate()

    config = optuna_dstn.TunerConfig(warmup_steps=0)
    study = optuna_dstn.create_study(config=config)
    study.enqueue_trial({"channels": 0.3, "units": 0.3})
    study.optimize(objective, n_trials=1)
    assert study.best_params["channels"] != 0.3
    assert study.best_params["units"] != 0.3
