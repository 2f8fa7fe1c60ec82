"""Hyperparameter tuning by Δ-STN inside one training run, as a drop-in for Optuna."""

from optuna_dstn import augmentation, visualization
from optuna_dstn._errors import HyperparameterError, TrainingDivergedError
from optuna_dstn._version import __version__
from optuna_dstn.hyperparameter._choice import choice
from optuna_dstn.hyperparameter._number import Hyperparameter
from optuna_dstn.penalty import l1_penalty, l2_penalty
from optuna_dstn.rules import register_rule
from optuna_dstn.schedule._replay import replay_schedule
from optuna_dstn.schedule._schedule import hyperparameter_schedule
from optuna_dstn.study._config import TunerConfig
from optuna_dstn.study._study import DSTNStudy, create_study, load_study, wrap
from optuna_dstn.study._trial import DSTNTrial
from optuna_dstn.training._fit import fit
from optuna_dstn.training._summary import Summary
from optuna_dstn.training._tuner import Tuner


__all__ = [
    "DSTNStudy",
    "DSTNTrial",
    "Hyperparameter",
    "HyperparameterError",
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
    "l1_penalty",
    "l2_penalty",
    "load_study",
    "register_rule",
    "replay_schedule",
    "visualization",
    "wrap",
]
