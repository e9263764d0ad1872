"""The diffusion transformer against a plain one under copied weights, and its guidance."""

import pytest
import torch
from plain_dit import PlainDiT
from torch import Tensor, nn

from backbones.flow_dit import FlowDiT
from got_core.types import Guidance

CHANNELS, TOKEN, MAPS = 4, 10, 3
SMALL = {"width": 24, "depth": 2, "heads": 3, "patch": 2}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def guidance(height: int = 8, width: int = 12, batch: int = 2, pooled: int | None = None) -> Guidance:
    maps = (draw(batch, MAPS, height, width, seed=seed) for seed in (2, 3))
    return Guidance(draw(batch, 5, TOKEN, seed=1), None if pooled is None else draw(batch, pooled, seed=4), *maps)


def shaken(model: nn.Module) -> nn.Module:
    """The model with every parameter moved off its initial value, so that nothing is closed by a zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def build(**options) -> FlowDiT:
    torch.manual_seed(0)
    given = {"spatial_channels": MAPS, "reference_channels": MAPS, **SMALL, **options}
    return FlowDiT(CHANNELS, TOKEN, **given)


def copied_to_plain(model: FlowDiT) -> PlainDiT:
    plain = PlainDiT(CHANNELS, TOKEN, **SMALL)
    pairs = [
        (plain.time_in, model.time.mlp[0]),
        (plain.time_out, model.time.mlp[2]),
        (plain.label, model.summary),
        (plain.last_ada, model.head.modulation),
        (plain.last, model.head.proj),
    ]
    for there, here in zip(plain.blocks, model.layers, strict=True):
        pairs += [(there.qkv, here.attn.qkv), (there.out, here.attn.proj), (there.ada, here.modulation)]
        pairs += [(there.up, here.mlp.fc1), (there.down, here.mlp.fc2)]
    for there, here in pairs:
        there.load_state_dict(here.state_dict())
    plain.patches.load_state_dict(
        {"weight": model.embed.weight.reshape(plain.patches.weight.shape), "bias": model.embed.bias}
    )
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in model.parameters())
    return plain


@pytest.mark.parametrize("size", [(8, 8), (4, 10)])
def test_without_extras_it_is_a_plain_dit(size):
    model = shaken(build(semantic="adaln", qk_norm=False, spatial_channels=None, reference_channels=None))
    x, t, given = draw(2, CHANNELS, *size), torch.tensor([3.0, 700.0]), guidance(*size)
    with torch.no_grad():
        expected = copied_to_plain(model)(x, t, given.tokens.mean(1))
        torch.testing.assert_close(model(x, t, given), expected, atol=1e-5, rtol=1e-5)


def test_cross_attention_starts_as_if_it_were_not_there():
    """Before training the blocks add nothing at all, and a block opened by adaLN still reads no tokens."""
    model = build()
    with torch.no_grad():
        nn.init.ones_(model.head.proj.weight)
        for layer in model.layers:
            layer.modulation.bias.fill_(1.0)
        first, second = (model(draw(2, CHANNELS, 8, 12), torch.tensor([1.0, 9.0]), g) for g in pair_of_same_mean())
    torch.testing.assert_close(first, second)
    assert not torch.allclose(*(shaken(model)(draw(2, CHANNELS, 8, 12), torch.ones(2), g) for g in pair_of_same_mean()))


def pair_of_same_mean() -> tuple[Guidance, Guidance]:
    given = guidance()
    offset = draw(2, 5, TOKEN, seed=9)
    other = given.tokens + offset - offset.mean(1, keepdim=True)
    return given, Guidance(other, None, given.spatial, given.reference)


def test_prediction_starts_at_zero():
    assert not build()(draw(2, CHANNELS, 8, 12), torch.tensor([1.0, 9.0]), guidance()).any()


@pytest.mark.parametrize(
    ("semantic", "pooled"), [("adaln", None), ("adaln", 7), ("cross_attention", None), ("both", None), ("both", 7)]
)
def test_semantic_guidance_is_used_as_configured(semantic, pooled):
    """Tokens and pooled vector change the output exactly when the chosen way uses them."""
    model = shaken(build(semantic=semantic, pooled_dim=pooled))
    tokens, vector = draw(2, 5, TOKEN, seed=1).requires_grad_(), draw(2, 7, seed=4).requires_grad_()
    given = guidance()
    output = model(
        draw(2, CHANNELS, 8, 12), torch.ones(2), Guidance(tokens, vector, given.spatial, given.reference)
    ).sum()
    output.backward()
    assert (tokens.grad is not None) == (semantic != "adaln" or pooled is None)
    assert (vector.grad is not None) == (pooled is not None)


def test_guidance_it_does_not_take_is_ignored():
    model = shaken(build(spatial_channels=None))
    x, t, given = draw(2, CHANNELS, 8, 12), torch.ones(2), guidance()
    bare = Guidance(given.tokens, None, None, given.reference)
    assert torch.equal(model(x, t, given), model(x, t, bare))


def test_maps_join_channel_wise_at_their_place():
    """What one patch's spatial guidance changes before any mixing is that patch alone."""
    model = shaken(build(depth=0))
    x, t, given = draw(2, CHANNELS, 8, 12), torch.ones(2), guidance()
    moved = given.spatial.clone()
    moved[:, :, 2:4, 6:8] += 1
    changed = model(x, t, given) != model(x, t, Guidance(given.tokens, None, moved, given.reference))
    place = torch.zeros(8, 12, dtype=torch.bool)
    place[2:4, 6:8] = True
    assert torch.equal(changed.any(0).any(0), place)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_any_size_that_the_patch_divides(patch):
    model = shaken(build(patch=patch))
    for height, width in ((8, 8), (4, 16), (12, 8), (8, 8)):
        given = guidance(height, width)
        assert model(draw(2, CHANNELS, height, width), torch.ones(2), given).shape == (2, CHANNELS, height, width)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 26}, "width 26 must be a multiple of heads 3"),
        ({"width": 30}, "width 30 must be a multiple of heads 3 and, for the positions, of 4"),
        ({"pooled_dim": 7, "semantic": "cross_attention"}, "pooled_dim 7 is for adaLN"),
    ],
)
def test_widths_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        build(**options)


def test_guidance_and_sizes_that_do_not_fit_are_refused():
    model, x, t, given = build(pooled_dim=7), draw(2, CHANNELS, 8, 12), torch.ones(2), guidance(pooled=7)
    with pytest.raises(ValueError, match="7x12 does not divide into patches of 2"):
        model(x[:, :, :7], t, given)
    with pytest.raises(ValueError, match="FlowDiT takes pooled guidance of width 7, but got none"):
        model(x, t, guidance())
    with pytest.raises(ValueError, match="FlowDiT takes spatial guidance of width 3, but got none"):
        model(x, t, Guidance(given.tokens, given.pooled, None, given.reference))
    with pytest.raises(ValueError, match="FlowDiT takes tokens guidance of width 10, but got width 4"):
        model(x, t, Guidance(given.tokens[..., :4], given.pooled, given.spatial, given.reference))
