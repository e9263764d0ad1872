"""The guidance encoder against canvases drawn pixel by pixel, and its nulls."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor, ImageDraw

from got_core.chain.parser import Region
from got_core.diffusion.codecs import AutoencoderCodec, PixelCodec
from got_core.types import BLACK, Batch, Reasoning, Sample
from guidance import semantic_spatial
from guidance.semantic_spatial import PALETTE, SemanticSpatialGuidance, colours, draw, painted

SIZE = (16, 24)
STATE, TOKEN, POOLED, STATES = 6, 8, 5, 3
TWO_BOXES = (
    "<|object_ref_start|>a red circle<|object_ref_end|><|box_start|>(0,0),(500,500)<|box_end|> (red) and "
    "<|object_ref_start|>a blue square<|object_ref_end|><|box_start|>(500,250),(999,750)<|box_end|> (blue)"
)
ONE_BOX = "<|object_ref_start|>a green dog<|object_ref_end|><|box_start|>(125,250),(375,875)<|box_end|>"
CHAINS = (TWO_BOXES, "nothing to see", ONE_BOX)
KL = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
    "latent_channels": 4,
}


def image(seed: int) -> torch.Tensor:
    return torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def batch() -> Batch:
    """The second sample is an edit, the others are not."""
    sources = (None, image(1), None)
    return Batch.collate([Sample("p", c, SIZE, source=s) for c, s in zip(CHAINS, sources, strict=True)])


def reasoning() -> Reasoning:
    states = torch.randn(len(CHAINS), STATES, STATE, generator=torch.Generator().manual_seed(0))
    return Reasoning(states=states, chains=CHAINS)


def encoder(channels: int | None = 12, **options) -> SemanticSpatialGuidance:
    torch.manual_seed(0)
    maps = {"spatial_channels": channels, "reference_channels": channels}
    return SemanticSpatialGuidance(STATE, TOKEN, POOLED, **{**maps, **options})


def canvas(box: tuple[int, int, int, int], colour: str) -> torch.Tensor:
    """By Pillow: x1, y1, x2, y2 in pixels, x2 and y2 included."""
    image = Image.new("RGB", (SIZE[1], SIZE[0]))
    ImageDraw.Draw(image).rectangle(box, fill=ImageColor.getrgb(colour))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(*SIZE, 3)
    return pixels.permute(2, 0, 1).float() / 127.5 - 1


def expected_spatial(codec, palette: str, scaled: bool) -> torch.Tensor:
    first, second, third = (
        PALETTE[:2] + PALETTE[:1] if palette == "order" else ("red", "blue", "green")  # the third is the phrase's word
    )
    drawn = [
        [canvas((0, 0, 12, 8), first), canvas((12, 4, 24, 12), second)],
        [torch.full((3, *SIZE), BLACK)],
        [canvas((3, 4, 9, 14), third)],
    ]
    return torch.stack([codec.encode(torch.stack(images), scaled=scaled).mean(0) for images in drawn])


@pytest.mark.parametrize("palette", ["order", "words"])
@pytest.mark.parametrize("scaled", [False, True])
def test_spatial_is_the_mean_of_each_samples_canvases(palette, scaled):
    codec = AutoencoderCodec(config=KL)
    found = encoder(4, palette=palette, scaled=scaled)(reasoning(), batch(), codec)
    torch.testing.assert_close(found.spatial, expected_spatial(codec, palette, scaled), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scaled", [False, True])
def test_reference_is_the_source_or_black(scaled):
    codec = AutoencoderCodec(config=KL)
    found = encoder(4, scaled=scaled)(reasoning(), batch(), codec)
    torch.testing.assert_close(found.reference, codec.encode(batch().source, scaled=scaled), atol=1e-5, rtol=1e-5)


def test_tokens_and_pooled_are_two_projections():
    module = encoder()
    found = module(reasoning(), batch(), PixelCodec(2))
    states = reasoning().states
    tokens = states @ module.projector.weight.T + module.projector.bias
    pooled = (states @ module.pooled_projector.weight.T + module.pooled_projector.bias).mean(1)
    torch.testing.assert_close(found.tokens, tokens)
    torch.testing.assert_close(found.pooled, pooled)


@pytest.fixture
def watched(monkeypatch):
    """A codec that notes how many images it encodes at a time."""
    codec = AutoencoderCodec(config=KL)
    encode, codec.seen = codec.encode, []

    def noted(images, scaled):
        codec.seen.append(len(images))
        return encode(images, scaled)

    monkeypatch.setattr(codec, "encode", noted)
    return codec


def test_each_image_is_encoded_once_and_black_only_where_it_is_needed(watched):
    encoder(4)(reasoning(), batch(), watched)
    assert watched.seen == [1 + 1 + 3]  # the source, black, and three boxes
    watched.seen.clear()
    same = Reasoning(reasoning().states, (TWO_BOXES,) * 3)
    found = encoder(4)(same, batch(), watched)
    assert watched.seen == [1 + 1 + 2]
    assert torch.equal(found.spatial[0], found.spatial[2])
    watched.seen.clear()
    edits = Batch.collate([Sample("p", chain, SIZE, source=image(1)) for chain in CHAINS])
    encoder(4)(same, edits, watched)
    assert watched.seen == [3 + 2]


def test_any_number_of_boxes_is_encoded_a_few_at_a_time(watched, monkeypatch):
    many = "".join(f"a dog ({left},{left}),({left + 300},{left + 300}) " for left in range(0, 600, 30))
    given = Reasoning(reasoning().states, (many, ONE_BOX, ""))
    at_once = encoder(4)(given, batch(), watched)
    assert watched.seen == [1 + 1 + 20 + 1]
    watched.seen.clear()
    monkeypatch.setattr(semantic_spatial, "PIXELS_AT_ONCE_ON_CPU", 5 * SIZE[0] * SIZE[1] + 1)
    found = encoder(4)(given, batch(), watched)
    assert watched.seen == [5, 5, 5, 5, 3]
    torch.testing.assert_close(found.spatial, at_once.spatial, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.reference, at_once.reference, atol=1e-6, rtol=0)


def test_parts_can_be_switched_off():
    module = SemanticSpatialGuidance(STATE, TOKEN)
    found = module(reasoning(), batch(), PixelCodec(2))
    assert (found.pooled, found.spatial, found.reference) == (None, None, None)
    without_spatial = encoder(spatial_channels=None)(reasoning(), batch(), PixelCodec(2))
    assert without_spatial.spatial is None
    torch.testing.assert_close(without_spatial.reference, PixelCodec(2).encode(batch().source))
    without_reference = encoder(reference_channels=None)(reasoning(), batch(), PixelCodec(2))
    assert without_reference.reference is None
    torch.testing.assert_close(without_reference.spatial, expected_spatial(PixelCodec(2), "order", False))


def test_chains_without_any_box_give_black():
    given = Reasoning(states=reasoning().states, chains=("", "no box", "(1,2"))
    found = encoder()(given, batch(), PixelCodec(2))
    assert torch.equal(found.spatial, torch.full((3, 12, 8, 12), BLACK))


def test_nulls_replace_only_what_the_masks_name():
    module = encoder()
    given = module(reasoning(), batch(), PixelCodec(2))
    first, second, third = (torch.arange(3) == place for place in range(3))
    found = module.drop(given, semantic=first, spatial=second, reference=third)
    torch.testing.assert_close(found.tokens[0], module.projector(torch.zeros(STATES, STATE)))
    assert torch.equal(found.tokens[1:], given.tokens[1:])
    assert torch.equal(found.pooled, given.pooled)
    assert not found.spatial[1].any()
    assert torch.equal(found.spatial[[0, 2]], given.spatial[[0, 2]])
    assert not found.reference[2].any()
    assert torch.equal(found.reference[:2], given.reference[:2])


def test_gradient_flows_to_the_states():
    states = reasoning().states.requires_grad_()
    found = encoder()(Reasoning(states=states, chains=CHAINS), batch(), PixelCodec(2))
    (found.tokens.square().sum() + found.pooled.square().sum()).backward()
    assert states.grad.abs().amin(dim=(1, 2)).min() > 0


def test_codec_of_another_width_is_refused():
    with pytest.raises(ValueError, match="spatial_channels is 4, but the codec makes 12 channels"):
        encoder(4)(reasoning(), batch(), PixelCodec(2))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 104), (1024, 1024)])
def test_boxes_cover_the_pixels_that_pil_fills(height, width):
    """As in the released code; coordinates of whole pixels and boxes without width are among these."""
    rng = np.random.default_rng(height)
    corners = np.sort(rng.integers(0, 1000, (200, 2, 2)), axis=1)
    corners[:20, 1, 0] = corners[:20, 0, 0]
    corners[20:60] = corners[20:60] // 125 * 125
    boxes = [tuple(map(int, box.reshape(4))) for box in corners]
    drawn = draw(boxes, ["white"] * len(boxes), (height, width), torch.device("cpu"))
    for box, canvas in zip(boxes, drawn, strict=True):
        expected = Image.new("L", (width, height))
        exact = [Fraction(edge * (height if axis % 2 else width), 1000) for axis, edge in enumerate(box)]
        ImageDraw.Draw(expected).rectangle([float(edge) for edge in exact], fill=255)
        assert torch.equal(canvas[0] > 0, torch.from_numpy(np.array(expected)) > 0), box


def test_known_boxes_cover_the_columns_of_the_released_code():
    for box, side, columns in (((125, 125, 500, 625), 64, (8, 32)), ((367, 89, 640, 998), 1024, (375, 655))):
        covered = (draw([box], ["red"], (side, side), torch.device("cpu"))[0, 0] > 0).any(0).nonzero()
        assert (covered.min(), covered.max()) == columns


def test_edges_go_to_the_nearest_pixel_and_no_box_vanishes():
    boxes = [(0, 0, 999, 999), (94, 188, 469, 562), (998, 998, 999, 999), (500, 0, 501, 999)]
    drawn = draw(boxes, ["white"] * 4, (32, 32), torch.device("cpu"), "nearest")
    inside = drawn[:, 0] > 0
    extents = []
    for mask in inside:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        extents.append((columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1))
        assert mask.sum() == len(rows) * len(columns)
    assert extents == [(0, 0, 32, 32), (3, 6, 15, 18), (31, 31, 32, 32), (16, 0, 17, 32)]


def test_palettes():
    regions = [
        Region("a red dog", (0, 0, 9, 9), None),
        Region("", (0, 0, 9, 9), "teal"),
        Region("x", (0, 0, 9, 9), None),
    ]
    # Models trained under "order" know these colours by their order.
    assert " ".join(PALETTE) == (
        "red lime blue yellow magenta cyan white orange purple green pink brown gray olive teal navy"
    )
    assert colours(regions, "order") == list(PALETTE[:3])
    assert colours(regions, "words") == ["red", "teal", PALETTE[2]]
    assert painted(regions, "words") == regions
    assert painted(regions, "named") == regions[1:2]
    assert colours(regions[1:2], "named") == ["teal"]
    assert colours(regions * 10, "order")[len(PALETTE)] == PALETTE[0]
    assert len({ImageColor.getrgb(name) for name in PALETTE}) == len(PALETTE)
