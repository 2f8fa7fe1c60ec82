"""Tuners compared on the same problems: ``python -m comparisons``.

Every tuner gets the same objective, data, seeds and epochs. What it finds is selected on validation
data, retrained plainly on fresh seeds, and looked at once on test data. What it costs is measured
and counted in plain training runs.

Samplers have a budget: plain training runs, counted in epochs, so that a tuner that cuts bad runs
short may begin more of them; or minutes. Self-tuning networks and population-based training have a
length of their own, and show what they reach for what they cost.

Data flows one way: ``problems`` and ``_tuners`` (of the kinds in ``_tuner`` and ``_population``) →
``_search`` (pieces of work) → ``_study`` (one search, and the plain runs beside it) → ``_runner``
(all of them, in processes) → ``_storage`` (SQLite) → ``_table`` → ``_report``. A run of
``_sensitivity`` goes the same way, from ``_runner`` into rows of a CSV file.
"""
