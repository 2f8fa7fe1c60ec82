"""The settings of the method. They live on the study, as the settings of a sampler do."""

from __future__ import annotations

from dataclasses import dataclass
import math


_METHODS = ("delta-stn", "centered-stn", "stn")
_RESPONSES = ("structured", "anchored", "gated", "full")
_PERTURBATIONS = ("auto", "example", "batch")
_LEAST_COUNTS = {"response_interval": 1, "train_steps": 1, "valid_steps": 1}


@dataclass(frozen=True, kw_only=True)
class TunerConfig:
    """Settings of the self-tuning network.

    The defaults are chosen over all problems of ``comparisons`` together, never for a single one.
    λ denotes the hyperparameters in unconstrained space (before the sigmoid that maps them to their
    ranges), w the weights, Θ the response, ε ~ N(0, σ²) the perturbation of λ, and L_V the
    validation loss. A weight step is one step of the user's optimizer.

    Example:
        >>> config = optuna_dstn.TunerConfig(warmup_steps=500, response="gated")
        >>> study = optuna_dstn.create_study(direction="minimize", config=config)

    Attributes:
        method: The best-response model. ``"delta-stn"`` (default): w0 + Θ(λ − λ0) around the
            current λ0, and the network is linearised at the current weights w0, so that Θ is the
            Jacobian of the response for any σ (Bae & Grosse, 2020, algorithm 1).
            ``"centered-stn"``: the same with the network as it is, so that Θ is the best linear
            response over the width σ; for models with operations that have no forward-mode
            derivative. ``"stn"``: φ0 + Φλ, where φ0 and Φ are trained together in one pass at
            perturbed hyperparameters (MacKay et al., 2019, "Self-Tuning Networks"); for comparison.
        response: The structure of Θ. ``"structured"`` (default): ΔW = diag(Uε)·R and Δb = (Vε)⊙r
            for each layer y = Wx + b, with R and r of the size of the layer and h columns in U and
            V (Bae & Grosse, 2020, section 3.3). ``"anchored"``: ΔW = diag(Uε)·(W + R), where R
            starts at zero, so that the response moves with the weights. ``"gated"``: ΔW =
            diag(Uε)·W, which rescales the units of a layer and stores nothing of the size of the
            weights; cheaper, but some problems need an R. Neither of the two with ``"stn"``.
            ``"full"``: ΔW = Θε with a dense Jacobian, h times the size of the weights; for small
            models.
        perturbation: ``"example"``: each example of a batch has an ε of its own, and a parameter in
            a function that cannot tell the examples apart does not respond. ``"batch"``: the whole
            batch has one ε; the gradient is noisier. ``"auto"`` (default): as ``"example"``, unless
            the training loss of an example depends on other examples of its batch (in-batch
            negatives, Cox's likelihood, a graph convolution), or a parameter takes part in a
            function that cannot tell the examples apart; then as ``"batch"``. The first step finds
            this out, and ``Tuner.summary()`` says it. For losses that depend on other examples,
            ``"example"`` gives wrong gradients.
        response_lr: Learning rate of Adam, > 0, on the response to weights that SGD trains; default
            5e-3. The learning rate of SGD suits the gradient of the weights; the gradient of the
            response has another scale, and at the same rate the response falls behind. If a
            scheduler lowers the learning rate of the weights, this one falls by the same factor.
            ``None`` gives the response an optimizer of the same class and settings as the weights,
            as published. The response always has such an optimizer if the user's optimizer scales
            each gradient itself, with ``"stn"``, and in ``float16``. No effect if the
            :class:`Tuner` has a ``response_optimizer``.
        response_interval: Weight steps for each step on the response, ≥ 1; default 3, which costs
            less than 1 (as published). No effect with ``"stn"``, which trains both in one step.
        response_fraction: The part of each batch on which the response takes its step, in (0, 1];
            default 1. A smaller part costs less and makes the response noisier. No effect with
            ``"stn"``.
        train_steps: Weight steps between two visits to the hyperparameters, ≥ 1; default 5.
        valid_steps: Steps on the hyperparameters at each visit, ≥ 1; default 1.
        warmup_steps: Weight steps before the first visit, ≥ 0. The response learns in this time;
            before, its hypergradient is meaningless. ``None`` (default): 100, but at most a tenth
            of a training whose length is known, as :func:`~optuna_dstn.fit` knows it and
            ``Tuner(total_steps=...)`` says it.
        hyper_lr: Learning rate of RMSprop on λ, > 0. ``None`` (default): 3e-2, and more in a short
            training whose length is known, so that all steps together could move λ by 6, at most
            0.3. The published 1e-2 hardly moves λ in a run with a few hundred steps on λ.
        initial_scale: σ at the start, the same for every hyperparameter, in unconstrained space,
            > 0; default 1.5. A wider σ puts more signal into what the response learns from, so λ
            leaves a start where the loss is flat sooner. A narrower σ makes the response more
            local. The papers take 1.
        tune_scale: ``True``: σ is tuned, as published. Then a step on λ and σ minimises
            E_ε L_V(w0 + Θε) − τ·H over perturbed hyperparameters. ``False`` (default): σ stays
            ``initial_scale``, and λ takes the hypergradient at λ itself, Θᵀ∇L_V(w0). The published
            expectation is over predictions with noise from ε. Its gradient is noisier. It is also
            biased, the more so the wider σ: larger logits make up for the noise, and less
            regularisation gives larger logits.
        scale_lr: Learning rate of RMSprop on ρ, where σ = softplus(ρ), > 0; default 1e-2, as
            published. No effect without ``tune_scale``.
        entropy_weight: τ in L_V − τ·H, ≥ 0, in units of the validation loss; default 1e-3, as
            published. H = Σ log(σ√(2πe)) keeps σ from vanishing. No effect without ``tune_scale``.

    Raises:
        ValueError: If a setting is not in its range or not one of the known names.
    """

    method: str = "delta-stn"
    response: str = "structured"
    perturbation: str = "auto"
    response_lr: float | None = 5e-3
    response_interval: int = 3
    response_fraction: float = 1.0
    train_steps: int = 5
    valid_steps: int = 1
    warmup_steps: int | None = None
    hyper_lr: float | None = None
    initial_scale: float = 1.5
    tune_scale: bool = False
    scale_lr: float = 1e-2
    entropy_weight: float = 1e-3

    def __post_init__(self) -> None:
        self._require_known_name("method", _METHODS)
        self._require_known_name("response", _RESPONSES)
        self._require_known_name("perturbation", _PERTURBATIONS)
        if self.method == "stn" and self.response in ("anchored", "gated"):
            raise ValueError(
                f"TunerConfig(method='stn', response={self.response!r}): its weights would be "
                "diag(1 + Uλ)·φ0, from which φ0 cannot be had back where the factor is zero. Take "
                "response='structured' or 'full', or method='centered-stn'."
            )
        for name, least in _LEAST_COUNTS.items():
            self._require_count(name, least)
        if self.warmup_steps is not None:
            self._require_count("warmup_steps", 0)
        for name in ("scale_lr", "initial_scale"):
            if not (_is_number(getattr(self, name)) and getattr(self, name) > 0):
                raise self._error(name, "a positive number")
        for name in ("hyper_lr", "response_lr"):
            rate = getattr(self, name)
            if rate is not None and not (_is_number(rate) and rate > 0):
                raise self._error(name, "a positive number, or None")
        if not (_is_number(self.response_fraction) and 0 < self.response_fraction <= 1):
            raise self._error(
                "response_fraction", "the part of a batch, a number above 0 and at most 1"
            )
        if not (_is_number(self.entropy_weight) and self.entropy_weight >= 0):
            raise self._error("entropy_weight", "a number, at least 0")
        if not isinstance(self.tune_scale, bool):
            raise self._error("tune_scale", "True or False")

    def _require_count(self, setting: str, least: int) -> None:
        count = getattr(self, setting)
        if not isinstance(count, int) or isinstance(count, bool) or count < least:
            raise self._error(setting, f"a whole number, at least {least}")

    def _require_known_name(self, setting: str, known: tuple[str, ...]) -> None:
        value = getattr(self, setting)
        if value not in known:
            raise ValueError(
                f"TunerConfig({setting}={value!r}) is not known. Known: "
                f"{', '.join(map(repr, known))}."
            )

    def _error(self, setting: str, expected: str) -> ValueError:
        return ValueError(f"TunerConfig({setting}={getattr(self, setting)!r}): give {expected}.")


def _is_number(value: object) -> bool:
    """Whether a value is a finite ``int`` or ``float``."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
