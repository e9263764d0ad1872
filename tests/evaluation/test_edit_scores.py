"""How far two images differ, in all and outside a plan; how similar they are to CLIP and DINO."""

import importlib.resources

import pytest
import torch
import torchvision
from tiny_judges import random_alexnet, tiny_clip, tiny_dino, tiny_vit
from torch.nn.functional import interpolate, normalize
from transformers import AutoImageProcessor, CLIPProcessor

from got_core.errors import UserError
from got_core.evaluation.metrics.similarity import ClipEmbedding, DinoEmbedding, PerceptualDistance
from got_core.evaluation.suites.editing import outside_plan, pixel_scores
from got_core.types import to_pil

LEFT_HALF = "1. Area: the sky (0,0),(500,999)."


def noise(seed, height=64, width=80):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """AlexNet with random weights, as torchvision saves it."""
    return random_alexnet(tmp_path_factory.mktemp("alexnet") / "alexnet.pth")


def test_outside_is_what_no_box_covers():
    outside = outside_plan("a (0,0),(500,500) and b (250,0),(999,250)", (8, 8))
    assert outside.sum() == 64 - 16 - 8
    assert outside[3, 3] == outside[1, 7] == False  # noqa: E712
    assert outside[4, 4]
    assert outside_plan(None, (8, 8)) is None
    assert outside_plan("no box", (8, 8)) is None
    assert outside_plan("all of it (0,0),(999,999)", (8, 8)) is None


def test_pixels_by_hand():
    source = torch.full((3, 4, 4), -1.0)
    output = source.clone()
    output[:, :, :2] = 1.0
    output[0, 0, 3] = 0.0
    scores = pixel_scores(source, output, LEFT_HALF, None)
    assert scores == {
        "l1": pytest.approx((24 + 0.5) / 48),
        "l2": pytest.approx((24 + 0.25) / 48),
        "l1_outside": pytest.approx(0.5 / 24),
        "l2_outside": pytest.approx(0.25 / 24),
    }
    assert set(pixel_scores(source, output, None, None)) == {"l1", "l2"}


def plain_lpips(file, first, second):
    """LPIPS as its paper has it, from torchvision's own module."""
    network = torchvision.models.alexnet(weights=None).eval()
    network.load_state_dict(torch.load(file, weights_only=True), strict=False)
    linear = torch.load(
        importlib.resources.files("torchmetrics") / "functional/image/lpips_models/alex.pth", "cpu", weights_only=True
    )
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = (torch.stack([first, second]) - shift[:, None, None]) / scale[:, None, None]
    total = torch.zeros(1, 1, *first.shape[-2:])
    used = (1, 4, 7, 9, 11)
    for index, layer in enumerate(network.features):
        x = layer(x)
        if index in used:
            unit = x / (x**2).sum(dim=1, keepdim=True).add(1e-8).sqrt()
            weight = linear[f"lin{used.index(index)}.model.1.weight"]
            difference = ((unit[:1] - unit[1:]) ** 2 * weight[0]).sum(dim=1, keepdim=True)
            total = total + interpolate(difference, first.shape[-2:], mode="bilinear", align_corners=False)
    return total[0, 0]


@torch.no_grad()
def test_lpips_is_the_papers(alexnet):
    lpips = PerceptualDistance.from_file(alexnet)
    torch.testing.assert_close(lpips(noise(1), noise(2)), plain_lpips(alexnet, noise(1), noise(2)))
    assert lpips(noise(1), noise(1)).abs().max() < 1e-6
    assert lpips(noise(1, 20, 32), noise(2, 20, 32)).shape == (20, 32)


def test_lpips_outside_does_not_see_what_changed_inside(alexnet):
    lpips = PerceptualDistance.from_file(alexnet)
    source, inside = noise(1), noise(1)
    inside[:, :, :40] = noise(2)[:, :, :40]
    scores = pixel_scores(source, inside, LEFT_HALF, lpips)
    assert scores["lpips"] > 1e-4
    assert scores["lpips_outside"] < 1e-6
    assert scores["l1_outside"] == 0
    assert pixel_scores(source, noise(2), LEFT_HALF, lpips)["lpips_outside"] > 1e-4


def test_weights_that_are_not_lpips_are_refused(tmp_path, alexnet):
    with pytest.raises(UserError, match="no such file; LPIPS needs torchvision's AlexNet or VGG16"):
        PerceptualDistance.from_file(tmp_path / "nowhere.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match="not readable as weights"):
        PerceptualDistance.from_file(tmp_path / "text.pth")
    torch.save(torch.load(alexnet) | {"features.0.weight": torch.zeros(1)}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match="neither torchvision's AlexNet nor its VGG16"):
        PerceptualDistance.from_file(tmp_path / "odd.pth")


@torch.no_grad()
def test_clip_embeds_images_and_captions_in_one_space(tmp_path):
    model = tiny_clip(tmp_path)
    clip = ClipEmbedding.from_saved(str(tmp_path))
    images = [noise(1), noise(2, 32, 32)]
    images_embedded, texts_embedded = clip.images(images), clip.texts(["a dog", "x" * 500])
    inputs = CLIPProcessor.from_pretrained(tmp_path)(
        images=[to_pil(image) for image in images], text=["a dog"] * 2, return_tensors="pt"
    )
    expected = model(**inputs)
    torch.testing.assert_close(images_embedded, expected.image_embeds)
    torch.testing.assert_close(texts_embedded[0], expected.text_embeds[0])
    torch.testing.assert_close(texts_embedded.norm(dim=1), torch.ones(2))


@torch.no_grad()
@pytest.mark.parametrize("make", [tiny_dino, tiny_vit])
def test_dino_embeds_images_by_the_class_token(tmp_path, make):
    model = make(tmp_path)
    dino = DinoEmbedding.from_saved(str(tmp_path))
    pixels = AutoImageProcessor.from_pretrained(tmp_path)(images=[to_pil(noise(1))], return_tensors="pt")
    torch.testing.assert_close(dino.images([noise(1)]), normalize(model(**pixels).last_hidden_state[:, 0], dim=-1))


def test_another_model_is_not_dino(tmp_path):
    tiny_clip(tmp_path)
    with pytest.raises(UserError, match="is a clip; DINO is a ViT or a DINOv2"):
        DinoEmbedding.from_saved(str(tmp_path))
    with pytest.raises(UserError, match="nowhere cannot be loaded as DINO"):
        DinoEmbedding.from_saved(str(tmp_path / "nowhere"))
