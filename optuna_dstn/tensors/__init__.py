"""Small tools on tensors and torch calls, which know nothing of tuning.

The leaves of a call's arguments, names and kinds of torch functions, notes on tensors by identity,
dual numbers of forward-mode differentiation, gradient norms, repeated random numbers.

Imports: nothing of the package, for this is the lowest folder.
"""
