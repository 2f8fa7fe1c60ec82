"""Unmodified models of public libraries, small and with random weights.

They take minutes and need transformers, so they run on demand only::

    OPTUNA_DSTN_LIBRARIES=1 pytest tests/end_to_end/test_libraries.py
"""

from __future__ import annotations

import os
from typing import Any

from _reference import started
import pytest
import torch
from torch import Tensor, nn

from optuna_dstn import TunerConfig


pytestmark = pytest.mark.skipif(
    not os.environ.get("OPTUNA_DSTN_LIBRARIES"), reason="set OPTUNA_DSTN_LIBRARIES=1"
)

_SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
_T5: dict[str, Any] = {
    "vocab_size": 50,
    "d_model": 16,
    "d_kv": 8,
    "num_layers": 2,
    "num_heads": 2,
    "d_ff": 24,
    "decoder_start_token_id": 0,
}
_BART = {
    "vocab_size": 50,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
    "encoder_layerdrop": 0.5,
    "decoder_layerdrop": 0.5,
}
_MIXTRAL = {**_SIZES, "num_key_value_heads": 2, "num_local_experts": 4}

# The class, the name of the rate, the other settings, and the functions in which
# parameters are alike in the batch.
MODELS: dict[str, tuple[str, str, dict[str, Any], set[str]]] = {
    "bert": ("BertForMaskedLM", "hidden_dropout_prob", _SIZES, set()),
    "llama": ("LlamaForCausalLM", "attention_dropout", _SIZES, set()),
    "t5": (
        "T5ForConditionalGeneration",
        "dropout_rate",
        _T5 | {"decoder_start_token_id": 0},
        set(),
    ),
    "bart with layerdrop": ("BartForConditionalGeneration", "dropout", _BART, set()),
    "bloom": (
        "BloomForCausalLM",
        "hidden_dropout",
        {"vocab_size": 50, "hidden_size": 16, "n_layer": 2, "n_head": 2},
        set(),
    ),
    "mixtral": ("MixtralForCausalLM", "attention_dropout", _MIXTRAL, {"torch._grouped_mm"}),
    "mixtral with the router's loss": (
        "MixtralForCausalLM",
        "attention_dropout",
        _MIXTRAL | {"output_router_logits": True},
        {"torch._grouped_mm"},
    ),
}


def loss_fn(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    loss: Tensor = model(input_ids=batch[0], labels=batch[0]).loss
    return loss


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_responds(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    cls, rate, settings, alike = MODELS[name]
    torch.manual_seed(0)

    def make(trial: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
        model_class = getattr(transformers, cls)
        config = model_class.config_class(**settings, **{rate: trial.suggest_float("rate", 0, 0.5)})
        model = model_class(config).train()
        decay = trial.suggest_float("decay", 1e-4, 1e-1, log=True)
        return model, torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=decay)

    batch = (torch.randint(3, 50, (4, 12)),)
    tuner = started(make, loss_fn, [batch], config=TunerConfig(warmup_steps=2))
    for _ in range(15):
        tuner.step(batch)
    summary = tuner.summary()
    assert set(tuner.tuned) == {"rate", "decay"}
    assert not summary.not_responding
    assert {f for functions in summary.shared_in_batch.values() for f in functions} == alike
    assert not summary.centred
