"""The number that a suggest method returns, formulas of such numbers, and choices of functions.

A ``Hyperparameter`` is a ``float`` or ``int`` that remembers the formula by which it was computed
from suggested numbers. Python code sees a plain number; a torch function mode evaluates the formula
at other values. ``choice`` turns a categorical parameter into the probabilities of its options,
which are such numbers too.

In: a value and a name. Out: tracked numbers.

Imports go down: only ``tensors`` and the errors are below.
"""
