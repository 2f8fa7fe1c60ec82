from __future__ import annotations

import pytest
import torch
from torch import nn

from comparisons.problems._data import Batch, Shuffled, Splits, batches, evaluation_loss


@pytest.fixture
def data() -> Batch:
    """Twenty examples whose target is the input."""
    x = torch.arange(20.0)
    return x.unsqueeze(1), x


def test_splits_hold_each_example_once_with_its_target(data: Batch) -> None:
    splits = Splits.of(data, train=10, valid=6, test=3, seed=3)
    assert [len(x) for x, _ in splits] == [10, 6, 3]
    assert all(torch.equal(x.squeeze(1), y) for x, y in splits)
    assert len(torch.cat([y for _, y in splits]).unique()) == 19


def test_splits_follow_their_seed(data: Batch) -> None:
    one, again, other = (Splits.of(data, 10, 6, 4, seed).test[1] for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_an_epoch_holds_each_example_once_in_a_new_order(data: Batch) -> None:
    shuffled = Shuffled(data, 8, seed=1)
    first, second = ([y for _, y in shuffled] for _ in range(2))
    assert [len(y) for y in first] == [8, 8, 4]
    assert torch.cat(first).sort().values.equal(data[1])
    assert not torch.equal(torch.cat(first), torch.cat(second))


def test_order_does_not_depend_on_other_random_numbers(data: Batch) -> None:
    def second_epoch(draws: int) -> torch.Tensor:
        shuffled = Shuffled(data, 8, seed=1)
        next(iter(shuffled))
        torch.rand(draws)
        return torch.cat([y for _, y in shuffled])

    assert torch.equal(second_epoch(0), second_epoch(5))


def test_batches_keep_the_order(data: Batch) -> None:
    assert [y.tolist() for _, y in batches(data, 8)] == [
        list(range(8)),
        list(range(8, 16)),
        list(range(16, 20)),
    ]


def test_loss_is_of_the_model_in_evaluation_mode(data: Batch) -> None:
    model = nn.Dropout(1.0).train()

    def loss_fn(model: nn.Module, batch: Batch) -> torch.Tensor:
        return model(batch[0]).mean()

    assert evaluation_loss(model, loss_fn, batches(data, 8)) == pytest.approx(9.5)
