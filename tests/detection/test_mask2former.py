import json

import pytest
import torch
from einops import rearrange
from PIL import Image
from tiny_judges import tiny_clip, tiny_mask2former
from transformers import CLIPModel, CLIPProcessor, Mask2FormerImageProcessor

from got_core.detection.loading import load_geneval_detector
from got_core.detection.mask2former import (
    CLASSES,
    COLOUR_WORDS,
    TEMPLATES,
    Candidates,
    ClipColours,
    Mask2FormerDetector,
    at_size,
    candidates,
    instances,
    isolated,
    mask_box,
    most_confident,
    preprocessed,
    resized_size,
)
from got_core.errors import UserError

SIDE = 384
"""Side of masks in transformers' own post-processing."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    detector, clip = tmp_path_factory.mktemp("detector"), tmp_path_factory.mktemp("clip")
    tiny_mask2former(detector)
    tiny_clip(clip)
    return detector, clip


def noise(number, height, width):
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(number, 3, height // 8, width // 8, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(-1, 1)


def in_order(objects):
    return sorted((entry.score, entry.label, entry.box) for entry in objects)


def test_objects_are_those_of_transformers_own_post_processing(tmp_path):
    """Square images of the side of transformers' masks, where its rule and GenEval's are the same."""
    model = tiny_mask2former(tmp_path, side=SIDE)
    processor = Mask2FormerImageProcessor.from_pretrained(tmp_path)
    images = noise(2, SIDE, SIDE)
    detector = Mask2FormerDetector(model, processor, least_score=0.1, short_side=SIDE, long_side=SIDE)
    found = detector(images)
    pixels = ((images + 1) * 127.5).round().to(torch.uint8)
    with torch.no_grad():
        outputs = model(**processor(images=list(pixels), return_tensors="pt"))
    expected = processor.post_process_instance_segmentation(
        outputs, threshold=0.1, target_sizes=[(SIDE, SIDE)] * 2, return_binary_maps=True
    )
    assert sum(map(len, found)) > 2
    for objects, theirs in zip(found, expected, strict=True):
        segments = theirs["segments_info"]
        boxes = [mask_box(theirs["segmentation"][info["id"]].bool()) for info in segments]
        named = zip(segments, boxes, strict=True)
        known = sorted((info["score"], CLASSES[info["label_id"]], box) for info, box in named)
        ours = in_order(objects)
        assert [score for score, *_ in ours] == pytest.approx([score for score, *_ in known], abs=1e-5)
        assert [label for _, label, _ in ours] == [label for _, label, _ in known]
        for (*_, box), (*_, pixels_box) in zip(ours, known, strict=True):
            assert box == pytest.approx([1000 * edge / SIDE for edge in pixels_box])


def published_steps(model, processor, image, short_side, long_side, least):
    """One image by MMDetection's published steps, pair by pair of query and class."""
    height, width = image.shape[-2:]
    scale = min(short_side / min(height, width), long_side / max(height, width))
    h, w = int(height * scale + 0.5), int(width * scale + 0.5)
    levels = ((image + 1) * 127.5).round()
    resized = torch.nn.functional.interpolate(levels[None], (h, w), mode="bilinear", align_corners=False)[0].round()
    canvas = torch.zeros(1, 3, -(-h // 32) * 32, -(-w // 32) * 32)
    for channel, (mean, std) in enumerate(zip(processor.image_mean, processor.image_std, strict=True)):
        canvas[0, channel, :h, :w] = (resized[channel] / 255 - mean) / std
    with torch.no_grad():
        outputs = model(pixel_values=canvas)
    shares = outputs.class_queries_logits[0].softmax(-1)[:, :-1]
    pairs = [(float(shares[q, c]), q, c) for q in range(shares.shape[0]) for c in range(shares.shape[1])]
    found = []
    for share, q, c in sorted(pairs, reverse=True)[: shares.shape[0]]:
        logits = outputs.masks_queries_logits[0, q][None, None]
        logits = torch.nn.functional.interpolate(logits, canvas.shape[-2:], mode="bilinear", align_corners=False)
        logits = torch.nn.functional.interpolate(logits[..., :h, :w], (height, width), mode="bilinear")[0, 0]
        mask = logits > 0
        score = share * float(logits.sigmoid()[mask].sum()) / (float(mask.sum()) + 1e-6)
        if score > least and mask.any():
            ys, xs = mask.nonzero().unbind(1)
            box = (int(xs.min()) / width, int(ys.min()) / height, int(xs.max() + 1) / width, int(ys.max() + 1) / height)
            found.append((score, CLASSES[c], tuple(1000 * edge for edge in box)))
    return sorted(found)


@pytest.mark.parametrize("size", [(64, 64), (40, 96), (104, 40), (40, 200)])
def test_objects_of_images_of_any_shape_are_those_of_the_published_steps(folders, size):
    """Padded, enlarged and reduced ones; the last is bounded by its longer side."""
    detector = load_geneval_detector(*map(str, folders)).detector
    small = Mask2FormerDetector(detector.model, detector.processor, least_score=0.1, short_side=72, long_side=150)
    images = noise(2, *size)
    for image, objects in zip(images, small(images), strict=True):
        known = published_steps(small.model, small.processor, image, 72, 150, 0.1)
        ours = in_order(objects)
        assert len(known) > 0
        assert [score for score, *_ in ours] == pytest.approx([score for score, *_ in known], abs=1e-4)
        assert [label for _, label, _ in ours] == [label for _, label, _ in known]
        for (*_, box), (*_, expected) in zip(ours, known, strict=True):
            assert box == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 512), (800, 800)), ((1024, 1024), (800, 800)), ((480, 640), (800, 1067)), ((1000, 400), (1333, 533))],
)
def test_images_have_the_size_of_the_published_pipeline(size, expected):
    assert resized_size(size) == expected
    assert resized_size(size[::-1]) == expected[::-1]


def test_input_is_that_of_transformers_where_nothing_is_padded_or_smoothed(tmp_path):
    processor = Mask2FormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    pixels = ((noise(2, 32, 48) + 1) * 127.5).round().to(torch.uint8)
    theirs = processor(images=list(pixels), return_tensors="pt")["pixel_values"]
    ours, size = preprocessed(pixels, processor.image_mean, processor.image_std, 64, 128)
    assert size == (64, 96)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1.01 / 255 / min(processor.image_std)
    padded, size = preprocessed(pixels, processor.image_mean, processor.image_std, 65, 128)
    assert (padded.shape[-2:], size) == ((96, 128), (65, 98))
    assert (padded[..., 65:, :] == 0).all()
    assert (padded[..., 98:] == 0).all()


def test_the_size_of_a_saved_processor_is_not_used(tmp_path, folders, monkeypatch):
    """The published weights come with one that squashes images to 384 x 384 pixels."""
    tiny_mask2former(tmp_path, side=SIDE)
    loaded = load_geneval_detector(str(tmp_path), str(folders[1]))
    sizes = []
    loaded.detector.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(tuple(kwargs["pixel_values"].shape[-2:])), with_kwargs=True
    )
    loaded.detector(noise(1, 64, 128))
    assert sizes == [(672, 1344)]
    assert loaded.description["input"] == {"short_side": 800, "long_side": 1333, "multiple": 32}


def test_masks_lose_their_padding_and_take_the_images_size():
    logits = torch.full((2, 4, 8), -1.0)
    logits[0, :, :2] = 1.0
    logits[1, :, 4:] = 1.0
    resized = at_size(logits, (8, 16), (8, 8), (40, 20))
    assert resized.shape == (2, 40, 20)
    assert (resized[0] > 0).float().mean() == pytest.approx(0.5, abs=0.03)
    assert mask_box(resized[0] > 0) == (0, 0, 10, 40)
    assert (resized[1] > 0).float().mean() < 0.1
    assert at_size(logits[:0], (8, 16), (8, 8), (40, 20)).shape == (0, 40, 20)


def test_a_score_is_the_probability_of_the_class_times_that_of_the_mask():
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 5.0]])
    pairs = candidates(logits, 0.2)
    assert (pairs.queries.tolist(), pairs.labels.tolist()) == ([0], [0])
    probability = float(logits[0].softmax(0)[0])
    assert pairs.probabilities.tolist() == pytest.approx([probability])
    masks = torch.full((1, 4, 4), -2.0)
    masks[0, 1:3, 1:2] = torch.tensor([[1.0], [3.0]])
    found = instances(pairs, masks, 0.2)
    assert found.scores.tolist() == pytest.approx([probability * float(torch.tensor([1.0, 3.0]).sigmoid().mean())])
    assert found.masks.sum() == 2
    assert not len(instances(pairs, torch.full((1, 4, 4), -2.0), 0.2).scores)
    assert not len(instances(pairs, masks, 0.8).scores)


def test_two_classes_of_one_query_are_two_objects():
    pairs = candidates(torch.tensor([[2.0, 2.0, 0.0], [0.0, 0.0, 9.0], [0.0, 0.0, 9.0]]), 0.3)
    assert (pairs.queries.tolist(), sorted(pairs.labels.tolist())) == ([0, 0], [0, 1])
    assert isinstance(pairs, Candidates)


def test_the_image_of_an_object_is_grey_around_it():
    image = torch.randint(0, 256, (3, 6, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[1:4, 2] = mask[3, 2:7] = True
    crop = isolated(image, mask)
    assert crop.shape == (3, 3, 5)
    assert (crop[:, mask[1:4, 2:7]] == image[:, mask]).all()
    assert (crop[:, ~mask[1:4, 2:7]] == 153).all()


def test_colours_are_those_of_a_plain_zero_shot_clip(folders):
    model, processor = CLIPModel.from_pretrained(folders[1]), CLIPProcessor.from_pretrained(folders[1])
    colours = ClipColours(model, processor)
    image = ((noise(1, 48, 64)[0] + 1) * 127.5).round().to(torch.uint8)
    masks = torch.zeros(3, 48, 64, dtype=torch.bool)
    masks[0, 4:30, 10:50] = masks[1, 20:44, 0:30] = masks[2, 8:24, 30:46] = True
    masks[0, 10:14, 20:24] = False
    labels = ["dog", "computer mouse", "dog"]
    similarity = colours.similarity(image, masks, labels)
    whole = Image.fromarray(rearrange(image, "c h w -> h w c").numpy())
    for index, label in enumerate(labels):
        blank = Image.new("RGB", whole.size, "#999")
        object_only = Image.composite(whole, blank, Image.fromarray(masks[index].numpy()))
        crop = object_only.crop(mask_box(masks[index]))
        means = []
        for word in COLOUR_WORDS:
            texts = [template.format(colour=word, label=label) for template in TEMPLATES]
            inputs = processor(text=texts, images=crop, padding=True, return_tensors="pt")
            with torch.no_grad():
                outputs = model(**inputs)
            means.append(outputs.text_embeds.mean(0) / outputs.text_embeds.mean(0).norm())
        expected = torch.stack(means) @ outputs.image_embeds[0]
        assert torch.allclose(similarity[index], expected, atol=1e-5)
        assert colours(image, masks, labels)[index] == COLOUR_WORDS[int(expected.argmax())]
    assert similarity.std(dim=1).min() > 1e-3
    assert TEMPLATES[0].format(colour="red", label="dog") == "a photo of a red dog"
    assert TEMPLATES[1].format(colour="red", label="dog") == "a photo of a red-colored dog"
    assert TEMPLATES[2].format(colour="red", label="dog") == "a photo of a red object"


def test_both_models_load_from_folders_and_find_every_objects_colour(folders):
    loaded = load_geneval_detector(*map(str, folders))
    assert loaded.detector.classes == CLASSES
    assert set(loaded.files) == set(loaded.description["weights"])
    assert set(loaded.files) == {"detector/model.safetensors", "colours/model.safetensors"}
    (objects,) = loaded.detector(noise(1, 40, 96))
    assert objects
    for entry in objects:
        assert entry.score > 0.3
        assert entry.colour in COLOUR_WORDS
        assert 0 <= entry.box[0] < entry.box[2] <= 1000


def test_colours_are_found_only_where_they_are_needed(folders):
    loaded = load_geneval_detector(*map(str, folders)).detector
    detector = Mask2FormerDetector(loaded.model, loaded.processor, loaded.colours, 0.01, short_side=64, long_side=128)
    images, counts = noise(2, 64, 64), []
    loaded.colours.register_forward_hook(lambda module, given, colours: counts.append(len(colours)))
    whole = detector(images)
    assert counts == [len(objects) for objects in whole]
    counts.clear()
    wanted = max({entry.label for entry in whole[1]}, key=lambda label: sum(e.label == label for e in whole[1]))
    seen = detector.look_for(images, [{}, {wanted: 1, "no such class": 3}])
    assert counts == [1]
    assert all(entry.colour is None for entry in seen[0])
    first = max((entry for entry in whole[1] if entry.label == wanted), key=lambda entry: entry.score)
    assert [entry for entry in seen[1] if entry.colour is not None] == [first]
    assert most_confident(["a", "b", "a", "a"], [0.5, 0.9, 0.7, 0.6], {"a": 2, "c": 1}) == [2, 3]
    assert most_confident(["a", "a", "a"], [0.5, 0.5 + 1e-9, 0.5], {"a": 2}) == [1, 2]  # Equal in float32.


def test_errors_name_the_model_that_cannot_be_loaded(folders, tmp_path):
    detector, clip = map(str, folders)
    for wrong, words in {
        (str(tmp_path), clip): "cannot be loaded as Mask2Former",
        ("nowhere/at/all", clip): "nowhere/at/all cannot be loaded as Mask2Former",
        (clip, clip): "it is a clip",
        (detector, detector): "cannot be loaded as CLIPModel: it is a mask2former",
    }.items():
        with pytest.raises(UserError, match=words):
            load_geneval_detector(*wrong)


def test_a_broken_detector_is_named(folders, tmp_path):
    for file in folders[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match="cannot be loaded as Mask2Former"):
        load_geneval_detector(str(tmp_path), str(folders[1]))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be loaded as Mask2Former"):
        load_geneval_detector(str(tmp_path), str(folders[1]))
    (tmp_path / "model.safetensors").write_bytes(weights)
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"]["5"], config["id2label"]["7"] = "person", "bicycle"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="not in COCO's order"):
        load_geneval_detector(str(tmp_path), str(folders[1]))
