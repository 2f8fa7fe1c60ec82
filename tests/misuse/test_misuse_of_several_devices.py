"""What hides layers or numbers from the Tuner is an error: FSDP, and a trial of plain numbers."""

from __future__ import annotations

from collections.abc import Iterator

from _mistakes import Given, sgd
from _small_net import BATCH, SOON, make_net
import optuna
import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

import optuna_dstn


@pytest.fixture(autouse=True, scope="module")
def _process_group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_fully_shard_is_named() -> None:
    given = Given()
    fully_shard(given.model.inner, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(ValueError, match=r"module 'inner' is sharded .*FSDP \(fully_shard\)"):
        given.tuner(optimizer=sgd(given.model)[1])


@pytest.mark.filterwarnings("ignore:FSDP is switching")
def test_the_class_of_fsdp_is_named() -> None:
    given = Given()
    sharded = FullyShardedDataParallel(given.model, device_id=torch.device("cpu"))
    with pytest.raises(ValueError, match=r"FSDP \(FullyShardedDataParallel\)"):
        given.tuner(model=sharded, optimizer=sgd(sharded)[1])


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("create_study", [optuna_dstn.create_study, optuna.create_study])
def test_a_torch_distributed_trial_is_refused_where_it_would_not_tune(create_study) -> None:
    integration = pytest.importorskip("optuna_integration")
    trial = integration.TorchDistributedTrial(create_study().ask())
    model, optimizer = make_net(lambda h, x: nn.functional.dropout(x, h))(trial)
    given = {"trial": trial, "model": model, "optimizer": optimizer}
    if create_study is optuna.create_study:
        Given().tuner(**given)
        return
    with pytest.raises(
        TypeError, match=r"TorchDistributedTrial of a Δ-STN study.*distributed_trial"
    ):
        Given().tuner(**given)


def test_ddp_in_one_process_needs_no_shared_trial() -> None:
    ended = []
    for wrap in (lambda model: model, DistributedDataParallel):
        torch.manual_seed(0)
        study = optuna_dstn.create_study(config=SOON)
        study.enqueue_trial({"h": 0.3})
        given = Given(study=study)
        tuner = given.tuner(model=wrap(given.model))
        losses = [tuner.step(BATCH), tuner.step(BATCH), tuner.evaluate()]
        ended.append([*losses, *tuner.hyperparameters.values()])
    assert ended[0] == ended[1]
