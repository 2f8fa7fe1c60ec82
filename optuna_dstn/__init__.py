"""Hyperparameter tuning by Δ-STN inside one training run, as a drop-in for Optuna.

A study of :func:`create_study` is an ``optuna.Study``, and the model is plain PyTorch. A
:class:`Tuner` takes the training steps of one trial. It tunes every suggested number that reaches a
torch function in training by the gradient of the validation loss::

    def objective(trial):
        model = make_model(dropout=trial.suggest_float("dropout", 0.0, 0.9))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        tuner = optuna_dstn.Tuner(trial, model, optimizer, loss_fn, valid_loader)
        for epoch in range(100):
            for batch in train_loader:
                tuner.step(batch)
            tuner.evaluate()
        return tuner.best_value

    study = optuna_dstn.create_study(direction="minimize")
    study.optimize(objective, n_trials=1)

The folders are the architecture; each ``__init__`` says what the folder does. Imports go one way:
``integration`` → ``training`` → ``schedule`` → ``study`` | ``discovery`` → ``linearize`` →
``rules`` → ``parameters`` → ``response`` → ``batch`` → ``space`` → ``hyperparameter`` →
``penalty`` | ``tensors``.
"""

from optuna_dstn import augmentation, integration, visualization
from optuna_dstn._errors import HyperparameterError, StorageAwayError, TrainingDivergedError
from optuna_dstn._version import __version__
from optuna_dstn.hyperparameter._choice import choice
from optuna_dstn.hyperparameter._number import Hyperparameter
from optuna_dstn.penalty import l1_penalty, l2_penalty
from optuna_dstn.rules import register_rule
from optuna_dstn.schedule._replay import replay_schedule
from optuna_dstn.schedule._schedule import hyperparameter_schedule
from optuna_dstn.study._config import TunerConfig
from optuna_dstn.study._patched import patched_optuna
from optuna_dstn.study._retry import retry_interrupted
from optuna_dstn.study._study import DSTNStudy, create_study, load_study, wrap
from optuna_dstn.study._trial import DSTNTrial
from optuna_dstn.training._checkpoint import Checkpoint
from optuna_dstn.training._fit import fit
from optuna_dstn.training._summary import Summary
from optuna_dstn.training._tuner import Tuner


__all__ = [
    "Checkpoint",
    "DSTNStudy",
    "DSTNTrial",
    "Hyperparameter",
    "HyperparameterError",
    "StorageAwayError",
    "Summary",
    "TrainingDivergedError",
    "Tuner",
    "TunerConfig",
    "__version__",
    "augmentation",
    "choice",
    "create_study",
    "fit",
    "hyperparameter_schedule",
    "integration",
    "l1_penalty",
    "l2_penalty",
    "load_study",
    "patched_optuna",
    "register_rule",
    "replay_schedule",
    "retry_interrupted",
    "visualization",
    "wrap",
]
