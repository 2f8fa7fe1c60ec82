"""The number that a suggest call returns, formulas on it, and choices between functions.

A ``Hyperparameter`` is a ``float`` or ``int`` that remembers the formula by which it was computed
from suggested numbers. A categorical choice is relaxed to the probabilities of its options, which
are such numbers too.

In: a value and a name. Out: numbers that Python sees as plain, and torch function modes evaluate at
other values.

Imports go down: only ``tensors`` and the errors are below.
"""
