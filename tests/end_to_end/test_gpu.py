"""Self-tuning networks on a CUDA device; run by `make test-gpu`."""

from __future__ import annotations

from collections.abc import Callable

from _problems import loss_fn
import optuna
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import optuna_dstn
from optuna_dstn.response import _structured
from optuna_dstn.space import Space


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def loss_fn_on_the_gpu(model, batch):
    return loss_fn(model, [part.cuda() for part in batch])


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
        tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn_on_the_gpu, [batch])
        for _ in range(20):
            tuner.step(batch)
        return tuner.evaluate()

    config = optuna_dstn.TunerConfig(warmup_steps=0)
    study = optuna_dstn.create_study(config=config)
    study.enqueue_trial({"channels": 0.3, "units": 0.3})
    study.optimize(objective, n_trials=1)
    assert study.best_params["channels"] != 0.3
    assert study.best_params["units"] != 0.3


# -- a GPU does what the CPU does ----------------------------------------------------------------


class Recurrent(nn.Module):
    """Classes from the last state of a recurrent layer."""

    def __init__(self, layer: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.layer = layer(3, 5, num_layers=2, batch_first=True)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (2, 6)),
        nn.Conv1d(2, 6, 3, padding=1),
        nn.BatchNorm1d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool1d(2),
        nn.Flatten(),
        nn.Linear(18, 4),
    )


def transformer() -> nn.Module:
    block = nn.TransformerEncoderLayer(4, 2, dim_feedforward=8, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (3, 4)), block, nn.Flatten(), nn.Linear(12, 4))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolutional": convolutional,
    "lstm": lambda: nn.Sequential(nn.Unflatten(1, (4, 3)), Recurrent(nn.LSTM)),
    "gru": lambda: nn.Sequential(nn.Unflatten(1, (4, 3)), Recurrent(nn.GRU)),
    "transformer": transformer,
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", ["stn", "centered-stn", "delta-stn"])
def test_a_gpu_tunes_as_the_cpu_does(
    method: str, name: str, monkeypatch: pytest.MonkeyPatch, double_precision: None
) -> None:
    _draw_on_the_cpu(monkeypatch)
    cpu, cuda = (_schedule(method, NETWORKS[name], device) for device in ("cpu", "cuda"))
    assert cpu["gain"].nunique() > 1
    assert cpu["l2"].nunique() > 1
    pd.testing.assert_frame_equal(cuda, cpu, rtol=2e-5)  # stored to six digits


def _draw_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the response and perturb alike on every device, whose generators differ."""
    first_direction = _structured._along_weights

    def direction(parameter: Tensor, axis: int) -> Tensor:
        drawn = first_direction(parameter.cpu(), axis)
        return drawn.detach().to(parameter.device).requires_grad_()

    def perturbation(space: Space, examples: int, shared: object = ()) -> Tensor:
        assert not shared
        return space.scale * torch.randn(examples, len(space)).to(space.raw.device)

    monkeypatch.setattr(_structured, "_along_weights", direction)
    monkeypatch.setattr(Space, "perturbation", perturbation)


def _schedule(method: str, network: Callable[[], nn.Module], device: str) -> pd.DataFrame:
    """Return the schedule of a gain of the inputs and of a penalty, over 20 steps."""
    torch.manual_seed(0)
    batches = [
        (torch.randn(16, 12).to(device), torch.randint(4, (16,)).to(device)) for _ in range(2)
    ]

    def objective(trial: optuna.Trial) -> float:
        gain = trial.suggest_float("gain", 0.1, 10.0, log=True)
        l2 = trial.suggest_float("l2", 1e-5, 1.0, log=True)
        model = network().to(device)

        def training_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            x, y = batch
            penalty = optuna_dstn.l2_penalty(model.parameters(), l2)
            return loss_fn(model, (x * gain, y)) + penalty

        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        tuner = optuna_dstn.Tuner(
            trial, model, optimizer, training_loss, batches, valid_loss_fn=loss_fn
        )
        for step in range(20):
            tuner.step(batches[step % 2])
            loss = tuner.evaluate()
        return loss

    config = optuna_dstn.TunerConfig(method=method, warmup_steps=0)
    study = optuna_dstn.create_study(config=config)
    study.enqueue_trial({"gain": 1.0, "l2": 1e-2})
    study.optimize(objective, n_trials=1)
    return optuna_dstn.hyperparameter_schedule(study.best_trial)
