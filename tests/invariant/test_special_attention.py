"""Families with sliding windows, soft-capped scores and attention sinks train on packed rows as on single documents."""

import pytest
import torch

from burnish.kernels.attention import packed_rows, reason_not_packed
from tests.unit.model.test_fused import SIZES as COMMON_SIZES

LENGTHS = (3, 12, 1, 7)
SIZES = {**COMMON_SIZES, "sliding_window": 4}
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES = {
    "mistral": {},
    "ministral": MIXED,
    "ministral3": {},
    "mixtral": EXPERTS,
    "phi3": {},
    "starcoder2": {},
    "qwen2": {**MIXED, "use_sliding_window": True},
    "qwen3": {**MIXED, "use_sliding_window": True},
    "qwen3_moe": {"use_sliding_window": True, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "smollm3": {**MIXED, "use_sliding_window": True, "no_rope_layers": [1, 0]},
    "cohere2": MIXED,
    "exaone4": MIXED,
    "olmo3": MIXED,
    "gemma2": {**MIXED, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    "gemma3_text": {**MIXED, "query_pre_attn_scalar": 8},
    "gpt_oss": {**MIXED, **EXPERTS},
}


def family(name, **changes):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**SIZES, **FAMILIES[name], **changes})
    return AutoModelForCausalLM.from_config(config).float().train()


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_a_packed_row_trains_as_its_documents_alone(name):
    model = family(name)
    documents = [torch.randint(3, 61, (length,)) for length in LENGTHS]
    alone = 0.0
    for ids in documents:
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        loss = torch.nn.functional.cross_entropy(logits, ids, reduction="sum")
        loss.backward()
        alone += loss.item()
    wanted = gradients(model)
    assert reason_not_packed(model) is None
    row = torch.cat(documents)
    places = torch.cat([torch.arange(length) for length in LENGTHS])
    with packed_rows(model):
        logits = model(
            input_ids=row[None], position_ids=places[None], use_cache=False, document_lengths=LENGTHS
        ).logits[0]
        loss = torch.nn.functional.cross_entropy(logits, row, reduction="sum")
        loss.backward()
    assert loss.item() == pytest.approx(alone, rel=1e-5)
    for key, value in gradients(model).items():
        assert (value - wanted[key]).abs().max() <= 1e-5 * max(1.0, wanted[key].abs().max().item()), key


@pytest.mark.parametrize("name", ["mistral", "gemma3_text"])
def test_the_window_matters_here(name):
    """The documents above are longer than the window, so that forgetting it would be seen."""
    near, far = family(name), family(name, sliding_window=64)
    ids = torch.randint(3, 61, (1, 12))
    assert (near(input_ids=ids).logits - far(input_ids=ids).logits).abs().max() > 1e-3
