"""What each of two processes does in a test, and the errors that it meets."""

from __future__ import annotations

from typing import Any

from _joined import Batch, Net, batches, started
import optuna
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

import optuna_dstn
from optuna_dstn import Tuner
from optuna_dstn.integration.distributed import distributed_trial


def is_first() -> bool:
    return distributed.get_rank() == 0


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def suggested(config: dict[str, Any] | None) -> list[Any]:
    """Return what a shared trial suggests and says, under a Δ-STN study or a plain one."""
    trial: Any = None
    if is_first():
        pruner = optuna.pruners.ThresholdPruner(upper=1.0)
        create_study = optuna.create_study if config is None else optuna_dstn.create_study
        study: optuna.Study = create_study(pruner=pruner)
        study.ask()
        trial = study.ask()
    trial = distributed_trial(trial)
    torch.manual_seed(distributed.get_rank())
    values = [
        trial.suggest_float("float", 0.0, 1.0),
        trial.suggest_int("int", 1, 100, log=True),
        trial.suggest_categorical("category", ["a", "b", None]),
    ]
    kinds = [type(value).__name__ for value in values]
    before = trial.should_prune()
    trial.report(2.0, step=1)
    after = trial.should_prune()
    return [*map(repr, values), *kinds, trial.number, before, after, dict(trial.params)]


def objective(trial: Any) -> float:
    trial = distributed_trial(trial)
    torch.manual_seed(trial.number + distributed.get_rank())
    model = DistributedDataParallel(
        nn.Sequential(
            nn.Linear(4, 8),
            nn.BatchNorm1d(8),
            nn.Dropout(trial.suggest_float("rate", 0.0, 0.9)),
            nn.Linear(8, 3),
        )
    )
    optimizer = SGD(model.parameters(), lr=trial.suggest_float("lr", 0.01, 0.1))
    rank = distributed.get_rank()
    tuner = Tuner(trial, model, optimizer, loss_fn, batches(rank, 1, 90))
    for index, batch in enumerate(batches(rank, 6, 1)):
        tuner.step(batch)
        trial.report(tuner.evaluate(), index)
    tuner.load_best()
    trial.set_user_attr("weights", [p.detach().sum().item() for p in model.parameters()])
    return tuner.best_value


def optimized(config: dict[str, Any] | None) -> Any:
    """Run a study, and train at its best trial and along the schedule of that trial."""
    if not is_first():
        values = [objective(None), objective(None)]
        return values, objective(None), None if config is None else objective(None)
    # Seeded, since a trial whose first evaluation is its best ends with its start values.
    sampler = optuna.samplers.RandomSampler(0)
    if config is None:
        study = optuna.create_study(sampler=sampler)
    else:
        study = optuna_dstn.create_study(sampler=sampler, config=optuna_dstn.TunerConfig(**config))
    study.optimize(objective, n_trials=2)
    values = [trial.value for trial in study.trials]
    facts = [(t.params, t.user_attrs.get("dstn:start"), t.state.name) for t in study.trials]
    retrained = objective(study.best_trial)
    replayed = None
    if config is not None:
        replayed = optuna_dstn.replay_schedule(objective, study.best_trial)
    return values, retrained, replayed, facts


def message(make: Any) -> str:
    try:
        make()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def tuner_of(trial: Any, *, ddp: bool = True, loss: Any = loss_fn) -> Tuner:
    torch.manual_seed(distributed.get_rank())
    net: nn.Module = Net(trial.suggest_float("scale", 0.1, 2.0))
    model = DistributedDataParallel(net) if ddp else net
    optimizer = SGD(model.parameters(), lr=0.1)
    rank = distributed.get_rank()
    return Tuner(trial, model, optimizer, loss, batches(rank, 1, 90))


def shared(**config: Any) -> Any:
    return distributed_trial(started(config) if is_first() else None)


def step(tuner: Tuner) -> None:
    tuner.step(batches(distributed.get_rank(), 1, 1)[0])


def nan_in_second(model: nn.Module, batch: Batch) -> Tensor:
    loss = loss_fn(model, batch)
    return loss if is_first() else loss * torch.nan


def of_torch_distributed() -> Any:
    from optuna_integration import TorchDistributedTrial

    return TorchDistributedTrial(started({}) if is_first() else None)


def nested() -> None:
    trial = shared()
    model = nn.Sequential(DistributedDataParallel(Net(trial.suggest_float("scale", 0.1, 2.0))))
    Tuner(trial, model, SGD(model.parameters()), loss_fn, batches(0, 1, 90))


def synchronised() -> None:
    trial = shared()
    net = nn.Sequential(Net(trial.suggest_float("scale", 0.1, 2.0)), nn.SyncBatchNorm(3))
    Tuner(trial, net, SGD(net.parameters()), loss_fn, batches(0, 1, 90))


MISTAKES: dict[str, Any] = {
    "a trial each": lambda: tuner_of(started({})),
    "two trials": lambda: distributed_trial(started({})),
    "no trial": lambda: distributed_trial(None),
    "Optuna's trial": lambda: tuner_of(of_torch_distributed()),
    "stn": lambda: tuner_of(shared(method="stn")),
    "without DDP": lambda: step(tuner_of(shared(), ddp=False)),
    "DDP inside": nested,
    "SyncBatchNorm": synchronised,
    "checkpoint": lambda: optuna_dstn.Checkpoint("x").resume(tuner_of(shared())),
    "NaN in one": lambda: step(tuner_of(shared(), loss=nan_in_second)),
}


def mistake(name: str) -> str:
    return message(MISTAKES[name])
