"""Random draws from a distribution of its own for each example.

A function that fills a tensor keeps its shape and dtype; row b is drawn with the b-th value. As in
dropout, nothing is differentiated with respect to the parameters of a distribution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from optuna_dstn.rules._domain import Domain
from optuna_dstn.rules._per_example import PerExample
from optuna_dstn.rules._registry import registry
from optuna_dstn.rules.hyperparameter._elementwise import elementwise_formula, per_entry


_PROBABILITY = Domain(0, 1)
_DEVIATION = Domain(low=0)
_POSITIVE = Domain(low=0, low_open=True)


@registry.hyperparameter(Tensor.bernoulli_, domain={"p": _PROBABILITY})
def bernoulli_(input: Tensor, p: PerExample, *, generator: Generator | None = None) -> Tensor:
    """y = 1 with probability p_b, 0 otherwise."""
    _, rate = per_entry(input, p)
    return input.bernoulli_(rate.expand_as(input), generator=generator)


@registry.hyperparameter(torch.bernoulli, Tensor.bernoulli, domain={"p": _PROBABILITY})
def bernoulli(input: Tensor, p: PerExample, *, generator: Generator | None = None) -> Tensor:
    """As ``bernoulli_``, in a new tensor of the shape and dtype of ``input``."""
    return bernoulli_(torch.empty_like(input), p, generator=generator)


@registry.hyperparameter(Tensor.normal_, domain={"std": _DEVIATION})
def normal_(
    input: Tensor, mean: Any = 0.0, std: Any = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """y = μ_b + σ_b·z, z ~ N(0, 1)."""
    _, mean, std = per_entry(input, mean, std)
    return input.normal_(generator=generator).mul_(std).add_(mean)


@registry.hyperparameter(torch.normal, domain={"std": _DEVIATION})
def normal(
    mean: Any,
    std: Any = 1.0,
    size: Any = None,
    *,
    generator: Generator | None = None,
    **options: Any,
) -> Tensor:
    """As ``normal_``, in a new tensor of the given size, or shaped as the mean or the deviation.

    As in torch, no derivative flows into the mean.
    """
    if size is not None:
        return normal_(torch.empty(size, **options), mean, std, generator=generator)
    mean, std = (a.detach() if isinstance(a, Tensor) else a for a in (mean, std))
    given = mean if isinstance(mean, Tensor) else std
    return normal_(torch.empty_like(given, **options), mean, std, generator=generator)


@registry.hyperparameter(Tensor.log_normal_, domain={"std": _DEVIATION})
def log_normal_(
    input: Tensor, mean: Any = 1.0, std: Any = 2.0, *, generator: Generator | None = None
) -> Tensor:
    """y = exp(μ_b + σ_b·z), z ~ N(0, 1)."""
    return normal_(input, mean, std, generator=generator).exp_()


@registry.hyperparameter(Tensor.uniform_)
def uniform_(
    input: Tensor,
    low: Any = 0.0,
    high: Any = 1.0,
    *,
    generator: Generator | None = None,
    **named: Any,  # "from", which Python reserves, and "to"
) -> Tensor:
    """y = l_b + (u_b − l_b)·v, v uniform on [0, 1)."""
    _, low, high = per_entry(input, named.get("from", low), named.get("to", high))
    return input.uniform_(generator=generator).mul_(high - low).add_(low)


@registry.hyperparameter(Tensor.exponential_, domain={"lambd": _POSITIVE})
def exponential_(input: Tensor, lambd: PerExample, *, generator: Generator | None = None) -> Tensor:
    """y = e/λ_b, e exponential of rate 1."""
    _, rate = per_entry(input, lambd)
    return input.exponential_(generator=generator).div_(rate)


@elementwise_formula(F.rrelu, torch.rrelu, in_place=(F.rrelu_,))
def rrelu(input: Tensor, lower: Any = 1 / 8, upper: Any = 1 / 3, training: bool = False) -> Tensor:
    """y = x where x > 0, s·x elsewhere; s uniform on [l_b, u_b], its mean outside training."""
    position = torch.rand_like(input) if training else 0.5
    return torch.where(input > 0, input, (lower + (upper - lower) * position) * input)


@registry.hyperparameter(F.gumbel_softmax, domain={"tau": _POSITIVE})
def gumbel_softmax(logits: Tensor, tau: PerExample, *args: Any, **kwargs: Any) -> Tensor:
    """y = softmax((x + g)/τ_b), g standard Gumbel."""
    _, temperature = per_entry(logits, tau)
    return F.gumbel_softmax(logits, temperature, *args, **kwargs)
