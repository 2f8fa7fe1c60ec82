"""Plotly figures of what Δ-STN did, beside those of ``optuna.visualization``."""

from optuna_dstn.visualization._comparison import plot_comparison
from optuna_dstn.visualization._hyperparameter_schedule import plot_hyperparameter_schedule


__all__ = ["plot_comparison", "plot_hyperparameter_schedule"]
