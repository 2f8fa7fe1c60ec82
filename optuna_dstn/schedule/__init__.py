"""The schedule of hyperparameters that a run went through: its record and its replay.

``Schedule`` is the record that a trial keeps; ``hyperparameter_schedule`` returns it as a data
frame. ``replay_schedule`` runs an objective with a ``ReplayTrial``, whose numbers follow a
``Timetable`` step by step.

In: evaluations of a run, or a data frame. Out: a data frame, or a trial for plain training along
it.

Imports go down: ``study``, ``space`` and ``hyperparameter`` are below; ``training`` is above.
"""
