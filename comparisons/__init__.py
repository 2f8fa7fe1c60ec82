"""Tuners compared on the same problems: ``python -m comparisons``.

Every tuner gets the same objective, data, seeds and epochs. What it finds is selected on validation
data, retrained plainly on fresh seeds, and looked at once on test data. What it costs is measured
and counted in plain training runs.

Data flows one way: ``problems`` and ``_tuners`` → ``_study`` (one study) → ``_runner`` (all
of them) → ``_storage`` (SQLite) → ``_table`` → ``_report``.
"""
