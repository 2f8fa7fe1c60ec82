"""What a Tuner tunes, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Summary:
    """Which hyperparameters are tuned, and which parameters respond to them.

    ``print(tuner.summary())`` shows it as a text.

    Example:
        >>> print(Summary(method="delta-stn", tuned={"p": ("dropout",)}, responding=("0.weight",)))
        delta-stn: 1 hyperparameter tuned by gradient, moved 0 times so far
          p  (in dropout)
        1 of 1 parameters respond
          0.weight

    Attributes:
        method: The method of the ``TunerConfig``; ``"plain"`` if the trial is no Δ-STN trial, and
            ``"schedule"`` under :func:`optuna_dstn.replay_schedule`.
        tuned: For each tuned hyperparameter, the functions that read it.
        shared: The tuned hyperparameters that are read where there is no batch axis. All examples
            of a batch share one draw of their perturbation, which makes their gradient noisier.
        one_perturbation: Why all examples of a batch share one draw of the perturbation of all
            hyperparameters, which makes their gradient noisier; empty if they do not.
        kept: For each other hyperparameter, why it keeps the value that the sampler suggested.
        hyperparameter_steps: The number of steps taken on the tuned hyperparameters so far; 0
            during the warm-up.
        responding: Names of the model's parameters that respond to the hyperparameters.
        shared_in_batch: For each responding parameter whose response all examples of a batch share,
            the functions that cannot tell the examples apart.
        without_rule: For each responding parameter that functions without a rule of their own
            combine with each example, by forward-mode differentiation, these functions.
        centred: The functions that nothing differentiates in forward mode. What comes before them
            responds through their centred difference f(x + ẋ) − f(x).
        not_responding: For each other parameter of the model, why it does not respond.
        scheduled: For each hyperparameter that follows a schedule, what has read it so far.
    """

    method: str
    tuned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    one_perturbation: str = ""
    kept: Mapping[str, str] = field(default_factory=dict)
    hyperparameter_steps: int = 0
    responding: tuple[str, ...] = ()
    shared_in_batch: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    without_rule: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    centred: tuple[str, ...] = ()
    not_responding: Mapping[str, str] = field(default_factory=dict)
    scheduled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.method == "plain":
            return "Plain training: every hyperparameter keeps the value that was suggested."
        if self.method == "schedule":
            lines = [f"Plain training: {len(self.scheduled)} hyperparameters follow a schedule"]
            for name, where in self.scheduled.items():
                lines.append(f"  {name}  (in {', '.join(where)})" if where else f"  {name}")
            return "\n".join([*lines, "every other one keeps the value that was given"])
        total = len(self.responding) + len(self.not_responding)
        numbers = (
            "1 hyperparameter" if len(self.tuned) == 1 else f"{len(self.tuned)} hyperparameters"
        )
        lines = [f"{self.method}: {numbers} tuned by gradient"]
        lines[0] += f", moved {self.hyperparameter_steps} times so far"
        for name, where in self.tuned.items():
            draws = "; one draw a batch" if name in self.shared else ""
            lines.append(f"  {name}  (in {', '.join(where)}{draws})")
        if self.one_perturbation:
            lines.append(f"one perturbation for the whole batch: {self.one_perturbation}")
        if self.kept:
            lines.append(f"{len(self.kept)} kept as suggested")
            lines += [f"  {name}  ({why})" for name, why in self.kept.items()]
        lines.append(f"{len(self.responding)} of {total} parameters respond")
        for name in self.responding:
            lines.append(f"  {name}{self._way_of(name)}")
        if self.centred:
            lines.append(f"  through the centred pass of {', '.join(self.centred)}")
        lines += [f"  {name}  — no response: {why}" for name, why in self.not_responding.items()]
        return "\n".join(lines)

    def _way_of(self, name: str) -> str:
        """Return in which way a parameter responds, unless its layer has a rule."""
        if name in self.shared_in_batch:
            return f"  (alike in the whole batch, in {', '.join(self.shared_in_batch[name])})"
        if name in self.without_rule:
            return f"  (by forward mode, in {', '.join(self.without_rule[name])})"
        return ""
