"""Names of the released checkpoint and of a system meet; every tensor has its place."""

import pytest
import torch

from got_core.weights.official import Source, Target, account, check, plain_name, plain_own

QUERY = "mllm.model.language_model.layers.3.self_attn.q_proj"
EMBED = "mllm.model.language_model.embed_tokens"


@pytest.mark.parametrize(
    ("theirs", "plain"),
    [
        ("mllm.base_model.model.model.layers.3.self_attn.q_proj.base_layer.weight", f"{QUERY}.weight"),
        ("mllm.model.layers.3.self_attn.q_proj.weight", f"{QUERY}.weight"),
        ("mllm.base_model.model.model.language_model.layers.3.self_attn.q_proj.weight", f"{QUERY}.weight"),
        ("mllm.base_model.model.model.layers.3.self_attn.q_proj.lora_A.default.weight", f"{QUERY}.lora_A.weight"),
        ("mllm.base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight", f"{QUERY}.lora_A.weight"),
        ("mllm.base_model.model.model.embed_tokens.modules_to_save.default.weight", f"{EMBED}.weight"),
        ("mllm.base_model.model.visual.merger.ln_q.weight", "mllm.model.visual.merger.ln_q.weight"),
        ("mllm.visual.merger.ln_q.weight", "mllm.model.visual.merger.ln_q.weight"),
        ("mllm.base_model.model.lm_head.weight", "mllm.lm_head.weight"),
        ("unet.conv_in.weight", "unet.conv_in.weight"),
        ("output_projector.projector.bias", "output_projector.projector.bias"),
    ],
)
def test_their_names_in_plain_form(theirs, plain):
    assert plain_name(theirs) == plain
    assert plain_name(plain) == plain


@pytest.mark.parametrize(
    ("ours", "plain"),
    [
        (
            "reasoner.mllm.base_model.model.model.language_model.layers.3.self_attn.q_proj.base_layer.weight",
            f"{QUERY}.weight",
        ),
        (
            "reasoner.mllm.base_model.model.model.language_model.embed_tokens.token_adapter.base_layer.weight",
            f"{EMBED}.weight",
        ),
        ("reasoner.mllm.model.visual.merger.ln_q.weight", "mllm.model.visual.merger.ln_q.weight"),
        ("guidance.projector.weight", "output_projector.projector.weight"),
        ("guidance.pooled_projector.bias", "output_projector_add.projector.bias"),
        ("backbone.unet.conv_in.weight", "unet.conv_in.weight"),
        ("codec.autoencoder.decoder.conv_in.bias", "vae.decoder.conv_in.bias"),
        ("elsewhere.weight", "elsewhere.weight"),
    ],
)
def test_our_names_in_plain_form(ours, plain):
    assert plain_own(ours) == plain


@pytest.mark.parametrize("spare", [-2, 0, 3], ids=["fewer", "as many", "more"])
@pytest.mark.parametrize("trained", [False, True])
def test_rows_of_tokens_are_taken_whatever_the_spare_ones(spare, trained):
    delta = f"{EMBED}.trainable_tokens_delta"
    base = {"own.matrix": torch.randn(12, 2), "own.rows": torch.zeros(2, 2)}
    matrix = torch.cat([base["own.matrix"][:10], torch.ones(5, 2)])[: 12 + spare].clone()
    matrix[[7, 8]] = 5.0
    matrix[0] += trained
    target = Target(
        shapes={f"{EMBED}.weight": torch.Size([12, 2]), delta: torch.Size([2, 2])},
        own={f"{EMBED}.weight": "own.matrix", delta: "own.rows"},
        tied={},
        rows={f"{EMBED}.weight": (7, 8)},
        loaded=["mllm."],
    )
    source = Source.of({"mllm.model.embed_tokens.weight": matrix})
    check(source, target)
    weights = account(source, target, base).weights
    assert torch.equal(weights["own.rows"], torch.full((2, 2), 5.0))
    changed = trained or spare >= 0
    assert ("own.matrix" in weights) == changed
    if changed:
        assert weights["own.matrix"].shape == (12, 2)
        assert torch.equal(weights["own.matrix"][:10], matrix[:10])
