"""Small tools for tensors and torch calls, which know nothing of tuning.

They find and replace leaves among the arguments of a call, name torch functions, attach notes to
tensors, make dual numbers for forward-mode differentiation, clip gradients, and repeat random
numbers.

In: tensors and the arguments of torch calls. Out: the same.

Imports: nothing of the package. This is the lowest folder.
"""
