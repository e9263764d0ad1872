"""Weights in 8 and 4 bits: less memory, almost the same images, never saved."""

import pytest
import torch
from torch import nn

from got_core.errors import UserError
from got_core.pipelines.pipeline import GoTPipeline
from got_core.weights.quantization import quantize

pytest.importorskip("bitsandbytes", reason="weights in 8 or 4 bits need the extra 'quantized', which .ci/run adds last")

PROMPT = "a red circle left of a blue square"


def size(module: nn.Module) -> int:
    return sum(weight.nbytes for weight in module.parameters())


@pytest.fixture(scope="module")
def whole():
    return GoTPipeline.from_pretrained(device="cpu")


@pytest.mark.parametrize(("bits", "smaller", "far"), [(8, 0.4, 0.01), (4, 0.25, 0.06)])
def test_the_bundled_model_plans_and_generates_almost_the_same_in_fewer_bits(whole, tmp_path, bits, smaller, far):
    pipe = GoTPipeline.from_pretrained(device="cpu", bits=bits)
    for name in ("reasoner", "backbone"):
        assert size(getattr(pipe.model, name)) < smaller * size(getattr(whole.model, name)), name
    for name in ("guidance", "codec"):
        assert size(getattr(pipe.model, name)) == size(getattr(whole.model, name)), name
    assert pipe.dtype == torch.float32
    plan = whole.plan(PROMPT)[0]
    assert [region.phrase for region in pipe.plan(PROMPT)[0].regions] == [region.phrase for region in plan.regions]
    image, same = (each.generate(plan, seed=1, output_type="pt").images for each in (pipe, whole))
    assert 0 < (image - same).abs().mean() < far
    with pytest.raises(UserError, match="are not saved"):
        pipe.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="open the model again"):
        pipe.to(torch.bfloat16)
    for enable in (pipe.enable_model_cpu_offload, pipe.enable_sequential_cpu_offload):
        with pytest.raises(ValueError, match="are not offloaded"):
            enable("cpu")


def test_a_matrix_that_layers_share_keeps_its_precision():
    embedding, head, other, small = nn.Embedding(128, 64), nn.Linear(64, 128), nn.Linear(64, 128), nn.Linear(64, 8)
    head.weight = embedding.weight
    model = nn.ModuleDict({"embedding": embedding, "head": head, "other": other, "small": small})
    quantize(model, 8)
    assert model["head"].weight is embedding.weight
    assert model["head"].weight.dtype == model["small"].weight.dtype == torch.float32
    assert model["other"].weight.dtype == torch.int8
    assert not any(weight.requires_grad for weight in model["other"].parameters())
