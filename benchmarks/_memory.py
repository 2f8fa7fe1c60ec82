"""The peak memory of training, as torch's own allocators count it."""

from __future__ import annotations

from collections.abc import Callable
import gc

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(make: Callable[[], Callable[[], object]], *, steps: int, device: str = "cpu") -> int:
    """Return the most bytes of tensors alive at once in the making of a training and some steps.

    Everything that training allocates is in it: weights, gradients, the optimizers' states, the
    response, activations, the batch, and temporary tensors, those inside torch's operators too
    (not the scratch memory that libraries such as oneDNN manage themselves). On the CPU each
    allocation and release is an event of torch's profiler, and the peak is that of their running
    sum; on CUDA the allocator keeps the peak itself. Unlike the process's resident memory, the
    figure has no share of the interpreter or of pages that were freed but not given back, and it
    repeats itself to a few bytes.

    Args:
        make: Makes the training, weights and batch included, and returns its step.
        steps: How many to take: enough for every kind of step.
        device: cpu or cuda.
    """
    gc.collect()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        _train(make, steps)
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        _train(make, steps)
    results = profiler.profiler.kineto_results  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    alive = peak = 0
    for _, change in changes:
        alive += change
        peak = max(peak, alive)
    return peak


def _train(make: Callable[[], Callable[[], object]], steps: int) -> None:
    step = make()
    for _ in range(steps):
        step()
    del step
    gc.collect()  # a module and its hooks refer to each other
