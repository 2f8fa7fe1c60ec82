"""What a batch is: how many examples it has, and where they are in a tensor.

The size of a batch, its parts, the mean of its losses, an endless loader, and the batch axis of the
tensors that a model makes of it. Lengths tell the batch axis: ``BatchLayout`` finds it, and
``clear_size`` says how many examples to take so that no other axis is as long. ``TensorRoles`` says
which tensors are weights, constants or examples.

In: what a loader yields, and the shapes of the tensors of one pass. Out: sizes, axes, and values of
the examples that broadcast against a tensor.

Imports go down: ``tensors`` is below; all that works on examples is above.
"""
