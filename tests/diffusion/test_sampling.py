"""The weighted branches against the published four-pass formula, and the loop against exact fields."""

import math

import pytest
import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from got_core.diffusion.objectives import EpsilonDiffusion, RectifiedFlow
from got_core.diffusion.sampling import (
    CONDITIONED,
    EDITING,
    TEXT_TO_IMAGE,
    GuidanceScales,
    Sampling,
    branches,
    check_interval,
    guided_predict,
    sample,
)
from got_core.interfaces import DenoisingBackbone, GuidanceEncoder
from got_core.types import Guidance

BATCH, CHANNELS, SIDE, WIDTH = 3, 2, 4, 6
CPU = torch.device("cpu")


class ConvBackbone(DenoisingBackbone):
    """Two convolutions over latents and maps, steered by the mean token; notes the size of each batch it sees."""

    latent_channels, token_dim, pooled_dim = CHANNELS, WIDTH, None
    spatial_channels = reference_channels = CHANNELS

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3 * CHANNELS, 8, 3, padding=1)
        self.steer = nn.Linear(WIDTH + 1, 8)
        self.last = nn.Conv2d(8, CHANNELS, 3, padding=1)
        self.seen: list[int] = []

    def forward(self, x_t: Tensor, t: Tensor, guidance: Guidance) -> Tensor:
        self.seen.append(len(x_t))
        maps = [x_t if value is None else value for value in (guidance.spatial, guidance.reference)]
        steer = torch.cat([reduce(guidance.tokens, "b l d -> b d", "mean"), t[:, None] / 1000], dim=1)
        hidden = self.first(torch.cat([x_t, *maps], dim=1)) + rearrange(self.steer(steer), "b c -> b c 1 1")
        return self.last(torch.tanh(hidden))


class ZeroNulls(GuidanceEncoder):
    """Drops to zeros, and for tokens to a learned vector."""

    state_dim = token_dim = WIDTH
    pooled_dim = None
    spatial_channels = reference_channels = CHANNELS

    def __init__(self):
        super().__init__()
        self.null = nn.Parameter(torch.linspace(-1, 1, WIDTH))

    def forward(self, reasoning, batch, codec):
        return guidance()

    def drop(self, guidance: Guidance, semantic: Tensor, spatial: Tensor, reference: Tensor) -> Guidance:
        def zero(mask: Tensor, value: Tensor | None) -> Tensor | None:
            return None if value is None else torch.where(mask[:, None, None, None], 0.0, value)

        tokens = torch.where(semantic[:, None, None], self.null, guidance.tokens)
        return Guidance(tokens, None, zero(spatial, guidance.spatial), zero(reference, guidance.reference))


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def guidance(spatial: bool = True) -> Guidance:
    maps = draw(BATCH, CHANNELS, SIDE, SIDE, seed=2), draw(BATCH, CHANNELS, SIDE, SIDE, seed=3)
    return Guidance(draw(BATCH, 5, WIDTH, seed=1), None, maps[0] if spatial else None, maps[1])


@pytest.fixture
def backbone() -> ConvBackbone:
    torch.manual_seed(0)
    return ConvBackbone()


def published(backbone, encoder, given, x, t, a_t, a_s, a_r) -> Tensor:
    """Four passes and three differences, as printed in the paper."""

    def e(semantic: bool, spatial: bool, reference: bool) -> Tensor:
        masks = [torch.full((BATCH,), not kept) for kept in (semantic, spatial, reference)]
        return backbone(x, t, encoder.drop(given, *masks))

    a_t, a_s, a_r = (torch.as_tensor(a).expand(BATCH)[:, None, None, None] for a in (a_t, a_s, a_r))
    nothing, image, text, everything = e(0, 0, 0), e(0, 0, 1), e(1, 0, 1), e(1, 1, 1)
    return nothing + a_r * (image - nothing) + a_t * (text - image) + a_s * (everything - text)


SCALES = {
    "editing": EDITING,
    "text-to-image": TEXT_TO_IMAGE,
    "none": GuidanceScales(1.0, 1.0, 1.0),
    "mixed": GuidanceScales(torch.tensor([7.5, 4.0, 1.0]), torch.tensor([4.0, 3.0, 1.0]), torch.tensor([1.0, 1.5, 1])),
}


@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES.keys())
def test_branches_equal_the_published_formula(backbone, scales):
    x, t, encoder = draw(BATCH, CHANNELS, SIDE, SIDE, seed=0), torch.tensor([10.0, 500.0, 900.0]), ZeroNulls()
    expected = published(
        backbone, encoder, guidance(), x, t, a_t=scales.semantic, a_s=scales.spatial, a_r=scales.reference
    )
    found = guided_predict(backbone, encoder, guidance(), scales)(x, t)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "rows"), [("editing", 4 * BATCH), ("text-to-image", 3 * BATCH), ("none", BATCH), ("mixed", 3 + 4 + 1)]
)
def test_branches_of_weight_zero_are_not_run_and_the_rest_is_one_batch(backbone, name, rows):
    x, t = draw(BATCH, CHANNELS, SIDE, SIDE, seed=0), torch.zeros(BATCH)
    guided_predict(backbone, ZeroNulls(), guidance(), SCALES[name])(x, t)
    assert backbone.seen == [rows]


@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES.keys())
def test_weights_of_every_sample_sum_to_one(scales):
    total = sum(branch.weight for branch in branches(scales, BATCH, CPU))
    torch.testing.assert_close(total, torch.ones(BATCH))


def test_without_spatial_guidance_two_branches_become_one(backbone):
    x, t, encoder = draw(BATCH, CHANNELS, SIDE, SIDE, seed=0), torch.zeros(BATCH), ZeroNulls()
    given = guidance(spatial=False)
    found = guided_predict(backbone, encoder, given, TEXT_TO_IMAGE)(x, t)
    assert backbone.seen == [2 * BATCH]
    expected = published(backbone, encoder, given, x, t, a_t=7.5, a_s=4.0, a_r=1.0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_scales_are_chosen_for_each_sample():
    scales = GuidanceScales.choose(torch.tensor([True, False]), editing=EDITING, text_to_image=TEXT_TO_IMAGE)
    assert scales.semantic.tolist() == [4.0, 7.5]
    assert scales.spatial.tolist() == [3.0, 4.0]
    assert scales.reference.tolist() == [1.5, 1.0]


class ExactField(DenoisingBackbone):
    """The exact prediction when all data is one image a sample, given as reference guidance."""

    latent_channels, token_dim, pooled_dim = CHANNELS, None, None
    spatial_channels, reference_channels = None, CHANNELS

    def __init__(self, objective):
        super().__init__()
        self.objective = objective

    def forward(self, x_t: Tensor, t: Tensor, guidance: Guidance) -> Tensor:
        x0 = guidance.reference
        clean, _ = self.objective.corrupt(x0, torch.zeros_like(x0), t)
        level, _ = self.objective.corrupt(torch.zeros_like(x0), torch.ones_like(x0), t)
        return self.objective.corrupt(x0, (x_t - clean) / level, t)[1]


@pytest.mark.parametrize(
    "objective",
    [RectifiedFlow(), RectifiedFlow(shift=3.0), EpsilonDiffusion(), EpsilonDiffusion(schedule="squaredcos_cap_v2")],
    ids=["flow", "shifted", "epsilon", "cosine"],
)
def test_loop_recovers_the_image_of_an_exact_field(objective):
    noise, given, seen = draw(BATCH, CHANNELS, SIDE, SIDE, seed=0), guidance(), []
    latents = sample(
        ExactField(objective),
        ZeroNulls(),
        given,
        objective.scheduler(),
        noise,
        GuidanceScales(1.0, 1.0, 1.0),
        steps=6,
        callback=lambda step, time, x: seen.append((step, x.shape)),
    )
    torch.testing.assert_close(latents, given.reference, atol=1e-4, rtol=0)
    assert seen == [(step, noise.shape) for step in range(6)]


def euler():
    return RectifiedFlow().scheduler()


def test_loop_is_the_same_twice_and_needs_no_gradient(backbone):
    noise = draw(BATCH, CHANNELS, SIDE, SIDE, seed=0)
    first, second = (
        sample(backbone, ZeroNulls(), guidance(), euler(), noise, TEXT_TO_IMAGE, steps=3) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert len(backbone.seen) == 6


def test_each_sample_is_the_same_in_any_batch(backbone):
    noise, given = draw(BATCH, CHANNELS, SIDE, SIDE, seed=0), guidance()
    scales = SCALES["mixed"]
    together = sample(backbone, ZeroNulls(), given, euler(), noise, scales, steps=3)
    last = Guidance(given.tokens[2:], None, given.spatial[2:], given.reference[2:])
    alone = sample(backbone, ZeroNulls(), last, euler(), noise[2:], GuidanceScales(1.0, 1.0, 1.0), steps=3)
    torch.testing.assert_close(together[2:], alone, atol=1e-5, rtol=1e-5)


def test_outside_of_the_interval_the_conditioned_prediction_is_used_alone(backbone):
    noise, given, encoder = draw(BATCH, CHANNELS, SIDE, SIDE, seed=0), guidance(), ZeroNulls()
    found = sample(backbone, encoder, given, euler(), noise, TEXT_TO_IMAGE, steps=4, guidance_interval=(500, 750))
    times = euler()
    times.set_timesteps(4)
    assert backbone.seen == [BATCH * (3 if 500 <= time <= 750 else 1) for time in times.timesteps]
    assert len(set(backbone.seen)) == 2
    x, scheduler = noise, times
    for time in scheduler.timesteps:
        scales = TEXT_TO_IMAGE if 500 <= time <= 750 else CONDITIONED
        prediction = guided_predict(backbone, encoder, given, scales)(x, time.expand(BATCH))
        x = scheduler.step(prediction, time, x, return_dict=False)[0]
    torch.testing.assert_close(found, x, atol=1e-6, rtol=0)


@pytest.mark.parametrize("interval", [(0, 1000), None])
def test_an_interval_of_all_times_is_the_full_procedure(backbone, interval):
    noise = draw(BATCH, CHANNELS, SIDE, SIDE, seed=0)
    full = sample(backbone, ZeroNulls(), guidance(), euler(), noise, EDITING, steps=3)
    found = sample(backbone, ZeroNulls(), guidance(), euler(), noise, EDITING, steps=3, guidance_interval=interval)
    assert torch.equal(found, full)


@pytest.mark.parametrize("interval", [(2, 1), (1,), 5, "ab", (math.nan, 1), ("a", 1)])
def test_what_is_no_interval_is_refused(interval):
    with pytest.raises(ValueError, match="guidance_interval must be two times"):
        check_interval(interval)


def test_a_procedure_has_steps_and_an_interval():
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1"):
        Sampling(0)
    with pytest.raises(ValueError, match="guidance_interval must be two times"):
        Sampling(4, (2, 1))
