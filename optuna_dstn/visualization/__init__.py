"""Plotly figures of what Δ-STN did, in the manner of ``optuna.visualization``.

In: studies. Out: ``plotly`` figures. Each figure is a step that collects the data, tested without
drawing, and a step that draws.

Imports go down: ``schedule`` and ``study`` are below; nothing in the package imports this folder.
"""

from optuna_dstn.visualization._comparison import plot_comparison
from optuna_dstn.visualization._hyperparameter_schedule import plot_hyperparameter_schedule


__all__ = ["plot_comparison", "plot_hyperparameter_schedule"]
