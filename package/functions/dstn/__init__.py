"""Hyperparameter tuning by gradient, inside one training run, in an Optuna study."""

from optuna_dstn import (
    DSTNStudy,
    Tuner,
    TunerConfig,
    create_study,
    fit,
    hyperparameter_schedule,
    load_study,
    patched_optuna,
    wrap,
)


__all__ = [
    "DSTNStudy",
    "Tuner",
    "TunerConfig",
    "create_study",
    "fit",
    "hyperparameter_schedule",
    "load_study",
    "patched_optuna",
    "wrap",
]
