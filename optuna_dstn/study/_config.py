"""The method's settings. They live on the study, as a sampler's settings do."""

from __future__ import annotations

from dataclasses import dataclass
import math


_METHODS = ("delta-stn", "centered-stn", "stn")
_RESPONSES = ("structured", "gated", "full")
_PERTURBATIONS = ("auto", "example", "batch")


@dataclass(frozen=True, kw_only=True)
class TunerConfig:
    """Settings of the self-tuning network.

    The defaults are chosen over all problems of ``comparisons`` at once, never for one.

    Attributes:
        method: ``"delta-stn"``: the best response is w0 + Θ(λ − λ0) around today's λ0, and the
            network is linearised at the current weights w0 in it, so that Θ is the response's
            Jacobian whatever σ is (Bae & Grosse, 2020, algorithm 1). ``"centered-stn"``: the same
            with the network as it is, so that Θ is the best linear response over the width σ; for
            models with operations that have no derivative in forward mode. ``"stn"``: the best
            response is φ0 + Φλ, and φ0 and Φ are trained together, in one pass at perturbed
            hyperparameters (MacKay et al., 2019, "Self-Tuning Networks"); for comparison.
        response: ``"structured"``: ΔW = diag(Uε)·R and Δb = (Vε)⊙r for each layer y = Wx + b
            (Bae & Grosse, 2020, section 3.3).
            ``"gated"``: ΔW = diag(Uε)·W, the units are rescaled, and nothing of the weights' size
            is stored (not with ``"stn"``). ``"full"``: ΔW = Θε with a dense Jacobian, h times the
            weights' size.
        perturbation: Whether each example has an ε of its own (``"example"``), or the whole batch
            one (``"batch"``: a noisier gradient). ``"auto"`` does the former, unless a parameter
            takes part in a function that cannot tell the examples apart; ``"example"`` leaves such
            a parameter out of the response instead.
        response_lr: Learning rate of Adam on the response to weights that SGD trains; > 0. Their
            own rate suits the scale of their gradient, not of the response's, which then falls
            behind. What a schedule makes less of the weights' rate, it makes less of this one.
            ``None`` gives the response an optimizer of the class and the settings of the weights',
            as published; so it is always with optimizers that scale each gradient themselves,
            with ``"stn"`` and in ``float16``. Without meaning where the :class:`Tuner` is given a
            ``response_optimizer``.
        response_interval: Steps on the weights for each step on the response; ≥ 1. Without meaning
            for ``"stn"``, which trains both in one step.
        response_fraction: The part of each batch on which the response takes its step; in (0, 1].
            Less costs less and makes the response noisier. Without meaning for ``"stn"``.
        train_steps: Steps on the weights between two visits to the hyperparameters; ≥ 1.
        valid_steps: Steps on the hyperparameters at each visit; ≥ 1.
        warmup_steps: Steps on weights and response before the first visit; ≥ 0.
        hyper_lr: Learning rate of RMSprop on the unconstrained hyperparameters λ; > 0.
        initial_scale: σ0, σ at the start, in unconstrained space, the same for all; > 0. The wider,
            the more of what the response learns from is signal, and the sooner λ finds its way
            from a start where the loss is flat; the narrower, the more local the response. The
            papers take 1.
        tune_scale: Whether σ is tuned, as published: then the step on λ and σ minimises
            E_ε L_V(w0 + Θε') − τ·H, over perturbed hyperparameters. Otherwise σ stays
            ``initial_scale`` and λ takes the hypergradient at λ itself, Θᵀ∇L_V(w0). The expectation
            is over predictions that ε has made noisier than the network's: its gradient is noisier
            too, and pulls λ away from where L_V is least, the more so the wider σ. The answer to
            noisier logits is larger ones, which less regularisation gives.
        scale_lr: Learning rate of RMSprop on ρ, where σ = softplus(ρ); > 0. For ``tune_scale``, as
            the next one.
        entropy_weight: τ in L_V − τ·H, which keeps σ from vanishing; ≥ 0.

    Raises:
        ValueError: If a setting is out of its range or names something unknown.
    """

    method: str = "delta-stn"
    response: str = "structured"
    perturbation: str = "auto"
    response_lr: float | None = 5e-3
    response_interval: int = 3
    response_fraction: float = 1.0
    train_steps: int = 5
    valid_steps: int = 1
    warmup_steps: int = 100
    hyper_lr: float = 3e-2
    initial_scale: float = 1.5
    tune_scale: bool = False
    scale_lr: float = 1e-2
    entropy_weight: float = 1e-3

    def __post_init__(self) -> None:
        _check_choice("method", self.method, _METHODS)
        _check_choice("response", self.response, _RESPONSES)
        _check_choice("perturbation", self.perturbation, _PERTURBATIONS)
        if self.method == "stn" and self.response == "gated":
            raise ValueError(
                "TunerConfig(method='stn', response='gated'): its weights would be "
                "diag(1 + Uλ)·φ0, from which φ0 cannot be had back where the factor is zero. Take "
                "response='structured' or 'full', or method='centered-stn'."
            )
        for name, minimum in (
            ("response_interval", 1),
            ("train_steps", 1),
            ("valid_steps", 1),
            ("warmup_steps", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
                raise ValueError(
                    f"TunerConfig({name}={value!r}): give a whole number, at least {minimum}."
                )
        given = () if self.response_lr is None else ("response_lr",)
        for name in ("hyper_lr", "scale_lr", "initial_scale", *given):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"TunerConfig({name}={value!r}): give a positive number.")
        if not 0 < self.response_fraction <= 1:
            raise ValueError(
                f"TunerConfig(response_fraction={self.response_fraction!r}): give the part of a "
                "batch, above 0 and at most 1."
            )
        if not (math.isfinite(self.entropy_weight) and self.entropy_weight >= 0):
            raise ValueError(
                f"TunerConfig(entropy_weight={self.entropy_weight!r}): give a number, at least 0."
            )


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(
            f"TunerConfig({name}={value!r}) is not known. Known: {', '.join(map(repr, known))}."
        )
