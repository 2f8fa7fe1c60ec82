"""Parameters in functions that are no layers: computed weights, and parameters that meet examples.

A weight may be reparametrised (weight norm, a mask, a slice, a sum of two) before it meets the
examples. These modules find along which axis the parameter's units lie in the computed weight, so
that the weight responds as the parameter does. Where a function combines a parameter entry by entry
with the examples, each example gets a value of its own.

In: a torch call with responding tensors. Out: ``Delta`` terms of its result.

Imports go down: ``response`` and ``batch`` are below; ``rules`` and ``linearize`` are above.
"""
