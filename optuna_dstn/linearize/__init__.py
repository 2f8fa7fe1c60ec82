"""One pass of the network at λ + ε and w + Θε: the linearised prediction f(x; w) + J_w f·Θε.

A ``TorchCallMode`` sees every torch call of the user's model. In the pass of the response, each
call is served by its rule: hyperparameters become one value for each example, layers return dual
numbers whose tangents are J_w f·Θε, and where the model returns, primal and tangent are added.

In: the model, a batch, perturbed hyperparameters and ``Deltas``. Out: predictions that are
differentiable in Θ and λ.

Imports go down: ``rules``, ``parameters``, ``response`` and ``batch`` are below; ``discovery`` and
``training`` are above.
"""
