"""What a saved state holds, and the trainings that it is refused for."""

from __future__ import annotations

from collections.abc import Callable
import copy
from typing import Any

from _problems import QUICK, loss_fn, make_classification_problem, make_objective, mlp
import numpy as np
import optuna
from optuna.trial import TrialState
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import optuna_dstn
from optuna_dstn.tensors._saved import restored, saved


PROBLEM = make_classification_problem()


class Noisy(nn.Module):
    """A model with a generator, a NumPy number, and a running mean in an attribute."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.net = mlp(dropout)
        self.generator = torch.Generator().manual_seed(1)
        self.mean = torch.zeros(())
        self.scale = np.float64(0.1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + x.mean().detach()
            noise = torch.randn(x.shape, generator=self.generator)
            x = x + float(self.scale) * noise + self.mean
        return self.net(x)


def start(
    study: optuna.Study | None = None,
    make_model: Callable[[float], nn.Module] = Noisy,
    kind: type[torch.optim.Optimizer] = torch.optim.SGD,
    high: float = 0.9,
) -> tuple[nn.Module, torch.optim.Optimizer, optuna_dstn.Tuner, Any]:
    trial = (study or optuna_dstn.create_study(config=QUICK)).ask()
    torch.manual_seed(0)
    model = make_model(trial.suggest_float("dropout", 0.0, high))
    optimizer = kind(model.parameters(), lr=np.float64(0.05))  # type: ignore[call-arg]
    valid_loader = DataLoader(PROBLEM.valid, 16, shuffle=True)
    return (
        model,
        optimizer,
        optuna_dstn.Tuner(trial, model, optimizer, loss_fn, valid_loader),
        trial,
    )


def test_a_resumed_run_draws_the_same_validation_batches(tmp_path: Any) -> None:
    """With a shuffling validation loader, and what the model keeps in attributes."""
    batches = list(DataLoader(PROBLEM.train, 16))
    model, optimizer, tuner, _ = start()
    for batch in batches:
        tuner.step(batch)
    tuner.evaluate()
    torch.save(
        saved([part.state_dict() for part in (model, optimizer, tuner)]), tmp_path / "state.pt"
    )
    random = torch.get_rng_state()

    def finish(tuner: optuna_dstn.Tuner) -> tuple[Any, ...]:
        for batch in batches:
            tuner.step(batch)
        return tuner.evaluate(), tuner.hyperparameters

    expected = finish(tuner)
    parts = start()
    for part, state in zip(parts, torch.load(tmp_path / "state.pt"), strict=False):
        part.load_state_dict(state)
    torch.set_rng_state(random)
    assert finish(parts[2]) == expected
    for one, other in zip(model.parameters(), parts[0].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_state_stays_as_it_is_while_training_goes_on() -> None:
    _, _, tuner, _ = start()
    batch = next(iter(PROBLEM.train_loader))
    tuner.step(batch)
    tuner.evaluate()
    state = tuner.state_dict()
    before = copy.deepcopy(state)
    for _ in range(3):
        tuner.step(batch)
    tuner.evaluate()
    torch.testing.assert_close(_tensors(state), _tensors(before), rtol=0, atol=0)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return [value] if isinstance(value, Tensor) else []


def test_saved_states_are_plain() -> None:
    shared = torch.ones(2)
    state = saved(
        {
            "g": torch.Generator().manual_seed(3),
            "n": np.float32(2),
            "a": np.ones(2),
            "t": [shared] * 2,
        }
    )
    assert type(state["n"]) is float
    assert torch.equal(state["a"], torch.ones(2, dtype=torch.float64))
    assert state["t"][0] is state["t"][1] is not shared
    assert restored(state)["g"].initial_seed() is not None
    drawn = torch.rand(2, generator=restored(state)["g"])
    assert torch.equal(drawn, torch.rand(2, generator=torch.Generator().manual_seed(3)))


class Wide(Noisy):
    def __init__(self, dropout: float) -> None:
        super().__init__(dropout)
        self.net = mlp(dropout, width=9)


class Deeper(Noisy):
    def __init__(self, dropout: float) -> None:
        super().__init__(dropout)
        self.extra = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"make_model": Wide},
            r"parameter 'net.0.weight' had shape \(8, 6\) and has shape \(9, 6\)",
        ),
        ({"make_model": Deeper}, "parameter 'extra.weight' is new"),
        ({"kind": torch.optim.Adagrad}, "the optimizer was SGD and is Adagrad"),
        ({"high": 0.8}, r"hyperparameter 'dropout' had .*0\.9.* and has .*0\.8"),
    ],
)
def test_the_error_names_what_differs(change: dict[str, Any], message: str) -> None:
    _, _, tuner, _ = start()
    tuner.step(next(iter(PROBLEM.train_loader)))
    with pytest.raises(ValueError, match=message):
        start(**change)[2].load_state_dict(tuner.state_dict())


def test_a_run_resumed_after_its_last_evaluation_ends_with_its_schedule() -> None:
    _, _, tuner, _ = start()
    for batch in PROBLEM.train_loader:
        tuner.step(batch)
    tuner.evaluate()
    study = optuna_dstn.create_study(config=QUICK)
    _, _, resumed, trial = start(study)
    resumed.load_state_dict(tuner.state_dict())
    study.tell(trial, resumed.best_value)
    assert study.best_trial.state == TrialState.COMPLETE
    assert study.best_params == tuner.best_params
    assert len(optuna_dstn.hyperparameter_schedule(study.best_trial)) == 1


def test_a_retry_still_knows_what_is_kept() -> None:
    def stop(trial: optuna.Trial, step: int) -> None:
        if step == 2:
            raise SystemExit

    storage = optuna.storages.InMemoryStorage()
    first = optuna_dstn.create_study(storage=storage, config=QUICK)
    with pytest.raises(SystemExit):
        first.optimize(make_objective(before_step=stop), n_trials=1)
    study = optuna_dstn.load_study(study_name=None, storage=storage, config=QUICK)
    study.tell(0, state=TrialState.FAIL)
    optuna.storages.RetryHeartbeatStaleTrialCallback()(study, study.trials[0])
    trial = study.ask()
    model = mlp(trial.suggest_float("dropout", 0.0, 0.9))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True)
    )
    tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, PROBLEM.valid_loader)
    tuner.step(next(iter(PROBLEM.train_loader)))
    assert tuner.summary().kept == {"lr": "kept by the trial that this one retries"}
