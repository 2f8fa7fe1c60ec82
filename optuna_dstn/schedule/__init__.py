"""The schedule of the hyperparameters in a training run: its record and its replay.

``Schedule`` is the record that a trial stores. ``hyperparameter_schedule`` returns the record as a
data frame. ``replay_schedule`` runs an objective with a ``ReplayTrial``, whose numbers have their
values at each step in a ``Timetable``.

In: evaluations of a run, or a data frame. Out: a data frame, or a trial for plain training along
the schedule.

Imports go down: ``study``, ``space`` and ``hyperparameter`` are below; ``training`` is above.
"""
