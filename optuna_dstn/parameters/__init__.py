"""Following the units of a parameter through what is computed from it.

A weight may be reparametrised (weight norm, a mask, a slice, a sum of two) before it meets an
example. These modules find along which axis the parameter's units lie in the result, so that the
result responds as the parameter does, and what one entry-by-entry function of a weight and the
examples sees for each example.

In: a torch call with responding tensors. Out: ``Delta`` terms of its result.

Imports go down: ``response`` and ``batch`` are below; ``rules`` and ``linearize`` are above.
"""
