"""cuDNN is kept out by one thread at a time, and is back afterwards."""

from concurrent.futures import ThreadPoolExecutor
import threading

import torch

from optuna_dstn.tensors._cudnn import without_cudnn


def test_it_is_off_inside_and_back_afterwards() -> None:
    with torch.backends.cudnn.flags(enabled=True):
        with without_cudnn():
            assert not torch.backends.cudnn.enabled
            with without_cudnn():
                assert not torch.backends.cudnn.enabled
            assert not torch.backends.cudnn.enabled
        assert torch.backends.cudnn.enabled


def test_threads_take_turns() -> None:
    """One that overlaps another would read its "off" as what to put back at the end."""
    waits, entered = threading.Event(), threading.Event()

    def second() -> None:
        waits.set()
        with without_cudnn():
            entered.set()

    with torch.backends.cudnn.flags(enabled=True), ThreadPoolExecutor(1) as pool:
        with without_cudnn():
            other = pool.submit(second)
            assert waits.wait(timeout=10)
            assert not entered.wait(timeout=0.2)
        other.result(timeout=10)
        assert entered.is_set()
        assert torch.backends.cudnn.enabled
