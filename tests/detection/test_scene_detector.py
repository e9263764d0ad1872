import numpy as np
import pytest
import torch
from torchvision.transforms.functional import gaussian_blur

from got_core.data.scenes.compose import Layout
from got_core.data.scenes.dataset import ScenesDataset
from got_core.data.scenes.render import BACKGROUNDS, COLOURS, SHAPES, Scene, SceneObject, render
from got_core.detection.base import UNKNOWN
from got_core.detection.scenes import MIN_SHAPE_IOU, SceneDetector, border_colour, colour_map, eight_bit
from got_core.planning.boxes import box_iou

HARD = {"shapes": tuple(SHAPES), "colours": tuple(COLOURS), "backgrounds": tuple(BACKGROUNDS), "max_objects": 4}
DETECTOR = SceneDetector()


def wrong(scene, found):
    """The errors of the detector in a scene."""
    faults = [] if len(found) == len(scene.objects) else [f"{len(found)} objects for {len(scene.objects)}"]
    for entry in scene.objects:
        box = [edge * 1000 / scene.size for edge in entry.box]
        best = max(found, key=lambda detection: box_iou(detection.box, box), default=None)
        right = best is not None and (best.label, best.colour) == (entry.shape, entry.colour)
        if not right or box_iou(best.box, box) < 0.95:
            faults.append(f"{entry} found as {best}")
    return faults


def scenes(length, **settings):
    """Targets, and sources where there are, of all categories in turn."""
    dataset = ScenesDataset(length=length, balanced=True, seed=3, **settings)
    sketches = [dataset.sketch(index) for index in range(length)]
    return [scene for sketch in sketches for scene in (sketch.target, sketch.source) if scene is not None]


@pytest.mark.parametrize(
    ("length", "settings"), [(360, {}), (120, HARD), (24, {"size": 64}), (12, {"size": 64, **HARD})], ids=str
)
def test_ground_truth_is_found_exactly(length, settings):
    rendered = scenes(length, **settings)
    found = DETECTOR(torch.stack([render(scene) for scene in rendered]))
    assert len(rendered) >= length
    assert [fault for scene, objects in zip(rendered, found, strict=True) for fault in wrong(scene, objects)] == []


def test_every_shape_colour_and_background_is_recognised():
    rendered = [
        Scene((SceneObject(shape, colour, (4, 3, 4 + side, 3 + side)),), background)
        for shape in SHAPES
        for colour, background, side in zip(COLOURS, [*BACKGROUNDS] * 9, range(9, 20), strict=False)
    ]
    found = DETECTOR(torch.stack([render(scene) for scene in rendered]))
    assert [fault for scene, objects in zip(rendered, found, strict=True) for fault in wrong(scene, objects)] == []


@pytest.mark.parametrize("disturbance", ["noise", "blur", "dull", "tint"])
def test_slightly_wrong_images_have_the_same_objects(disturbance):
    generator = torch.Generator().manual_seed(0)
    rendered = scenes(60)
    images = torch.stack([render(scene) for scene in rendered])
    disturbed = {
        "noise": lambda: images + 0.15 * torch.randn(images.shape, generator=generator),
        "blur": lambda: gaussian_blur(images, [3, 3], [0.5, 0.5]),
        "dull": lambda: 0.7 * images,
        "tint": lambda: images + 0.12 * torch.tensor([1.0, -1.0, 1.0])[:, None, None],
    }[disturbance]()
    found = DETECTOR(disturbed.clamp(-1, 1))
    assert [fault for scene, objects in zip(rendered, found, strict=True) for fault in wrong(scene, objects)] == []


def test_nothing_is_found_in_noise_or_blank_images():
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(40, 3, 32, 32, generator=generator) * 2 - 1
    gray = (0.5 * torch.randn(40, 3, 32, 32, generator=generator)).clamp(-1, 1)
    blank = (torch.rand(40, 3, 1, 1, generator=generator) * 2 - 1).expand(40, 3, 32, 32)
    assert all(not objects for objects in DETECTOR(blank))
    found = [entry for objects in DETECTOR(torch.cat([noise, gray])) for entry in objects]
    assert {entry.label for entry in found} <= {UNKNOWN}


def paint(image, mask, colour):
    image[:, mask] = torch.tensor(COLOURS[colour], dtype=torch.float32)[:, None] / 127.5 - 1


def test_objects_of_no_shape_are_unknown():
    image = render(Scene(()))
    bar, hook = torch.zeros(32, 32, dtype=torch.bool), torch.zeros(32, 32, dtype=torch.bool)
    bar[2:8, 2:14] = True
    hook[15:28, 15:18] = hook[25:28, 15:28] = True
    paint(image, bar, "red")
    paint(image, hook, "blue")
    found = DETECTOR(image[None])[0]
    assert {(entry.label, entry.colour) for entry in found} == {(UNKNOWN, "red"), (UNKNOWN, "blue")}
    assert all(entry.score < MIN_SHAPE_IOU for entry in found)
    red = next(entry for entry in found if entry.colour == "red")
    assert red.box == (62.5, 62.5, 437.5, 250)


def test_specks_are_ignored_and_objects_of_two_colours_are_two():
    image = render(Scene((SceneObject("square", "red", (4, 4, 16, 16)),)))
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[24:27, 24:27] = True
    paint(image, mask, "blue")
    mask[:] = False
    mask[4:16, 10:16] = True
    paint(image, mask, "white")
    assert sorted(entry.colour for entry in DETECTOR(image[None])[0]) == ["red", "white"]


def test_each_overlap_is_the_best_any_shape_and_box_could_reach():
    circle = Scene((SceneObject("circle", "red", (8, 8, 20, 20)),))
    triangles_only = SceneDetector(shapes=["triangle"])
    assert DETECTOR(render(circle)[None])[0][0].score == pytest.approx(1, abs=0.02)
    assert triangles_only(render(circle)[None])[0][0].score < MIN_SHAPE_IOU


def test_a_given_background_is_used_instead_of_the_borders():
    scene = Scene((SceneObject("square", "red", (0, 0, 32, 32)),))
    assert DETECTOR(render(scene)[None]) == [[]]
    (found,) = SceneDetector(background=BACKGROUNDS["gray"])(render(scene)[None])[0]
    assert (found.label, found.colour, found.box) == ("square", "red", (0, 0, 1000, 1000))


def test_large_and_wide_images_are_seen_in_their_own_proportions():
    small = render(Scene((SceneObject("circle", "green", (4, 8, 16, 20)),)))
    large = small.repeat_interleave(8, -1).repeat_interleave(8, -2)
    wide = torch.cat([large, torch.zeros_like(large) + large[:, :1, :1]], dim=-1)
    (found,) = DETECTOR(wide[None])[0]
    assert (found.label, found.colour) == ("circle", "green")
    assert box_iou(found.box, (62.5, 250, 250, 625)) > 0.95
    assert eight_bit(wide[None]).shape == (1, 64, 128, 3)


def test_the_borders_dominant_colour_outlasts_objects_on_it():
    pixels = eight_bit(render(Scene((SceneObject("square", "white", (0, 0, 15, 15)),)))[None])[0]
    assert np.allclose(border_colour(pixels), 128, atol=0.01)


def test_a_partly_covered_pixel_has_its_colour_and_coverage():
    red, gray = np.array([255.0, 0, 0]), np.array([128.0, 128, 128])
    pixels = np.stack([gray, 0.7 * gray + 0.3 * red, 0.4 * gray + 0.6 * red, red, np.array([0, 255, 120.0])])[None]
    colours = colour_map(pixels, gray, {name: COLOURS[name] for name in ("red", "blue")})
    assert np.allclose(colours.coverage[0, 0, :4], [0, 0.3, 0.6, 1])
    assert colours.covered.tolist() == [[False, False, True, True, False]]


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="hexagon"):
        SceneDetector(shapes=["hexagon"])
    with pytest.raises(ValueError, match="two colours"):
        SceneDetector(colours=["red"])


def test_layout_of_the_hard_scenes_reaches_the_smallest_objects():
    sizes = {entry.box[2] - entry.box[0] for scene in scenes(60, **HARD) for entry in scene.objects}
    assert min(sizes) == Layout().smallest
