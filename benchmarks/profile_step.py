"""Where a Δ-STN step spends its time: by phase, and in which of torch's operators.

    python benchmarks/profile_step.py --case mlp --response gated

The first table gives each phase its share of a plain training step, measured in the same run, and
how much of it passes in torch's operators; the rest is Python (the interception, the rules, the
optimizers' bookkeeping). On one thread of a CPU a phase's time is processor time, so that other
processes do not count. The second table gives the operators that take most of the time, by phase;
theirs is a run of its own under torch's profiler, which slows small ones down. All numbers are
means over whole cycles, in which each kind of step has its share.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
import functools
import time
from typing import Any

from _cases import CASES, Started, cycle, start
import click
import optuna
import torch
from torch.profiler import ProfilerActivity, profile, record_function

import optuna_dstn
from optuna_dstn.training._self_tuning import SelfTuning


_MARK = "phase: "


class Phases:
    """The time that each phase takes, by its path; a phase within another has a path below it.

    Attributes:
        seconds: Of each path, those of the paths below it included.
        calls: Of each path.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[tuple[str, ...], float] = defaultdict(float)
        self.calls: Counter[tuple[str, ...]] = Counter()
        self._path: tuple[str, ...] = ()
        self._device = "cpu"

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Let what runs inside count as a phase."""
        above, self._path = self._path, (*self._path, name)
        path = self._path
        begin = self._now()
        try:
            with record_function(_MARK + " / ".join(path)):
                yield
        finally:
            self.seconds[path] += self._now() - begin
            self.calls[path] += 1
            self._path = above

    def _now(self) -> float:
        if self._device == "cuda":
            torch.cuda.synchronize()
        elif torch.get_num_threads() == 1:  # other processes do not count
            return time.process_time()
        return time.perf_counter()

    def follow(self, owner: Any, attribute: str, name: str) -> None:
        """Let the calls of a method, or of a function of a module, count as a phase."""
        original = getattr(owner, attribute)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return original(*args, **kwargs)

        setattr(owner, attribute, timed)

    def follow_tuner(self, started: Started, device: str) -> None:
        """Follow the parts of a Tuner's step that there are."""
        self._device = device
        training: Any = started.tuner._training
        self.follow(training.context.optimizer, "step", "optimizer")
        if isinstance(training, SelfTuning):
            steps = training.steps
            if steps.joint is not None:
                self.follow(steps.joint, "train_on", "weight step")
            if steps.response is not None:
                self.follow(training, "add_gradient", "weight step")
                self.follow(steps.response, "add_gradient", "response step")
                self.follow(steps.response.perturbed_loss, "add_gradient", "half")
            self.follow(steps.hyperparameters, "take", "λ step")
            self.follow(training.bilevel.response_optimizer, "step", "optimizer")
            self.follow(training.bilevel.hyper_optimizer, "step", "optimizer")
        else:
            self.follow(training, "step", "weight step")
        self.follow(started.model, "forward", "forward")

    @contextmanager
    def following_derivatives(self) -> Iterator[None]:
        """Let backward passes count as phases too."""
        originals = torch.Tensor.backward, torch.autograd.grad
        self.follow(torch.Tensor, "backward", "backward")
        self.follow(torch.autograd, "grad", "backward")
        try:
            yield
        finally:
            torch.Tensor.backward, torch.autograd.grad = originals  # type: ignore[method-assign]


def measured(make: Callable[[], Started], steps: int, warm_up: int, device: str) -> Phases:
    """Return the phases of some steps, after others that are not counted."""
    started = make()
    for _ in range(warm_up):
        started.step()
    phases = Phases()
    phases.follow_tuner(started, device)
    with phases.following_derivatives():
        for _ in range(steps):
            with phases.phase("step"):
                started.step()
    return phases


def operators(
    make: Callable[[], Started], steps: int, warm_up: int, device: str
) -> dict[tuple[str, ...], Counter[str]]:
    """Return the seconds in each of torch's operators, by the phase that calls it."""
    started = make()
    for _ in range(warm_up):
        started.step()
    phases = Phases()
    phases.follow_tuner(started, device)
    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler, phases.following_derivatives():
        for _ in range(steps):
            with phases.phase("step"):
                started.step()
    found: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for event in profiler.events():
        if event.name.startswith(_MARK) or not event.name.startswith("aten::"):
            continue
        own = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        found[_phase_of(event)][event.name.removeprefix("aten::")] += own * 1e-6
    return found


def _phase_of(event: Any) -> tuple[str, ...]:
    while event is not None and not event.name.startswith(_MARK):
        event = event.cpu_parent
    return tuple(event.name.removeprefix(_MARK).split(" / ")) if event is not None else ()


@click.command()
@click.option("--case", "name", default="mlp", show_default=True, type=click.Choice(list(CASES)))
@click.option("--response", default="structured", show_default=True)
@click.option("--method", default="delta-stn", show_default=True)
@click.option(
    "--response-interval",
    default=optuna_dstn.TunerConfig().response_interval,
    show_default=True,
    help="Steps for each on Θ.",
)
@click.option("--response-fraction", default=1.0, show_default=True, help="Of a batch, for Θ.")
@click.option("--cycles", default=5, show_default=True, help="Cycles of steps to measure.")
@click.option("--batch", type=int, help="Examples in a batch. Default: the case's own.")
@click.option("--top", default=25, show_default=True, help="Operators to print.")
@click.option("--threads", default=1, show_default=True, help="Threads of torch.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
def main(
    name: str,
    response: str,
    method: str,
    response_interval: int,
    response_fraction: float,
    cycles: int,
    batch: int | None,
    top: int,
    threads: int,
    device: str,
) -> None:
    """Print where a Δ-STN step spends its time."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(threads)
    case = CASES[name]
    config = optuna_dstn.TunerConfig(
        method=method,
        response=response,
        response_interval=response_interval,
        response_fraction=response_fraction,
        warmup_steps=0,
    )

    def plain() -> Started:
        return start(case, optuna.create_study(), device, batch)

    def tuned() -> Started:
        return start(case, optuna_dstn.create_study(config=config), device, batch)

    whole = cycle(config)
    steps = cycles * whole
    unit = measured(plain, steps, whole, device).seconds["step",] / steps
    phases = measured(tuned, steps, whole, device)
    by_phase = operators(tuned, whole, whole, device)

    print(f"{name}, batch {batch or case.examples}, {method}, {response}, {threads} thread(s)")
    print(f"A plain step takes {unit * 1e3:.2f} ms; all that follows is per Δ-STN step.\n")
    print("| phase | calls | ms | of a plain step | in operators |")
    print("|---|---:|---:|---:|---:|")
    for path in sorted(phases.seconds, key=_order(phases)):
        seconds = phases.seconds[path] / steps
        inside = sum(sum(times.values()) for p, times in by_phase.items() if p[: len(path)] == path)
        print(
            f"| {'· ' * (len(path) - 1)}{path[-1]} | {phases.calls[path] / steps:.2f} "
            f"| {seconds * 1e3:.2f} | {seconds / unit:.3f} | {inside / whole * 1e3:.2f} |"
        )
    print("\n| operator | in | ms | of a plain step |\n|---|---|---:|---:|")
    found = Counter(
        {(name, path): s / whole for path, times in by_phase.items() for name, s in times.items()}
    )
    for (operator, path), seconds in found.most_common(top):
        where = " / ".join(path[1:]) or "elsewhere"
        print(f"| {operator} | {where} | {seconds * 1e3:.3f} | {seconds / unit:.3f} |")


def _order(phases: Phases) -> Callable[[tuple[str, ...]], tuple[int, ...]]:
    """Return a key that puts each phase behind the one it is in, in the order of first ends."""
    rank = {path: index for index, path in enumerate(phases.seconds)}
    return lambda path: tuple(rank[path[: n + 1]] for n in range(len(path)))


if __name__ == "__main__":
    main()
