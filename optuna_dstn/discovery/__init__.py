"""The first training step: what reads hyperparameters, and what responds to them.

``Discovery`` is the mode of the first weight step; it notes the functions that read each
hyperparameter and those in which each parameter takes part. ``make_plan`` turns the notes into a
``TuningPlan``: what is tuned, what keeps its value and why, which parameters respond along which
axis. ``ParameterWatch`` checks later steps against the plan.

In: the torch calls of one step. Out: a plan, or an error that names the culprit.

Imports go down: ``linearize`` and all below it; ``training`` is above.
"""
