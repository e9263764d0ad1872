"""Detections of phrases equal those of transformers' own post-processing."""

import pytest
import torch
from tiny_judges import tiny_clip, tiny_mask2former
from tiny_phrase_detectors import tiny_grounding_dino, tiny_owl

from got_core.detection.base import ClosedVocabulary
from got_core.detection.loading import load_layout_detector
from got_core.detection.mask2former import CLASSES
from got_core.detection.open_vocabulary import MOST_WORDS, QUERY, GroundingDinoDetector, OwlDetector
from got_core.detection.scenes import SceneDetector
from got_core.errors import UserError
from got_core.types import to_pil

HEIGHT, WIDTH = 40, 64
LABELS = ["a dog", "red car", "cat"]
KINDS = {
    "grounding-dino": tiny_grounding_dino,
    "owlvit": tiny_owl,
    "owlv2": lambda folder: tiny_owl(folder, second=True),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, make in KINDS.items():
        make(folders[kind])
    return {kind: load_layout_detector(str(folder)) for kind, folder in folders.items()}


def noise(number=1):
    return torch.rand(number, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) * 2 - 1


def loose(detector, **values):
    """The detector without a limit on overlaps."""
    return type(detector)(detector.model, detector.processor, same_object=1.0, **values)


def agree(found, theirs, labels=None):
    boxes = theirs["boxes"] / torch.tensor([WIDTH, HEIGHT] * 2) * 1000
    expected = sorted(zip(theirs["scores"].tolist(), boxes.clamp(0, 1000).tolist(), labels or found, strict=True))
    ours = sorted((entry.score, list(entry.box), entry.label) for entry in found)
    for (score, box, label), (their_score, their_box, their_label) in zip(ours, expected, strict=True):
        assert score == pytest.approx(their_score, abs=1e-5)
        assert box == pytest.approx(their_box, abs=0.05)
        assert labels is None or label == their_label


@pytest.mark.parametrize("kind", ["owlvit", "owlv2"])
def test_owls_objects_are_those_of_transformers_own_post_processing(loaded, kind):
    detector = loose(loaded[kind].detector, least_score=0.05)
    processor, image = detector.processor, noise()[0]
    inputs = processor(images=to_pil(image), text=[[QUERY.format(label) for label in LABELS]], return_tensors="pt")
    with torch.no_grad():
        outputs = detector.model(**inputs)
    (theirs,) = processor.post_process_grounded_object_detection(
        outputs, threshold=0.05, target_sizes=[(HEIGHT, WIDTH)], text_labels=[LABELS]
    )
    area = (theirs["boxes"].clamp(min=0) / torch.tensor([WIDTH, HEIGHT] * 2)).clamp(max=1)
    inside = (area[:, 2] > area[:, 0]) & (area[:, 3] > area[:, 1])
    labels = [label for label, valid in zip(theirs["text_labels"], inside.tolist(), strict=True) if valid]
    (found,) = detector(image[None], [LABELS])
    assert len({entry.label for entry in found}) > 1
    agree(found, {"boxes": theirs["boxes"][inside], "scores": theirs["scores"][inside]}, labels)


def test_grounding_dinos_objects_are_those_of_transformers_own_post_processing(loaded):
    detector = loose(loaded["grounding-dino"].detector, least_score=0.5)
    processor, image = detector.processor, noise()[0]
    inputs = processor(images=to_pil(image), text=[LABELS], return_tensors="pt")
    with torch.no_grad():
        outputs = detector.model(**inputs)
    (theirs,) = processor.post_process_grounded_object_detection(
        outputs, inputs.input_ids, threshold=0.5, text_threshold=0.5, target_sizes=[(HEIGHT, WIDTH)]
    )
    (found,) = detector(image[None], [LABELS])
    assert 0 < len(found) == len(theirs["scores"])
    agree(found, theirs)
    words = {entry.score: entry.label for entry in found}
    for score, text in zip(theirs["scores"].tolist(), theirs["text_labels"], strict=True):
        label = min(words.items(), key=lambda pair: abs(pair[0] - score))[1]
        if text in LABELS:
            assert label == text


def test_phrases_too_many_for_one_caption_make_several(loaded):
    detector = loose(loaded["grounding-dino"].detector, least_score=0.0)
    many = [f"{word} of a kind" for word in ("dog", "car", "cat", "tree", "fish", "house", "bench")]
    groups = detector._captions(many)
    assert len(groups) > 1
    assert sorted(index for group in groups for index in group) == list(range(len(many)))
    for group in groups:
        caption = "".join(f"{many[index]}. " for index in group)
        assert len(detector.processor.tokenizer(caption).input_ids) <= detector.model.config.max_text_len
    (found,) = detector(noise(), [many])
    (first,) = detector(noise(), [[many[index] for index in groups[0]]])
    assert {(entry.label, entry.score) for entry in first} < {(entry.label, entry.score) for entry in found}


def test_boxes_that_overlap_are_one_object(loaded):
    detector = loaded["owlv2"].detector
    every = loose(detector)(noise(), [LABELS])[0]
    fewer = type(detector)(detector.model, detector.processor, same_object=0.01)(noise(), [LABELS])[0]
    assert 0 < len(fewer) < len(every)
    assert max(every, key=lambda entry: entry.score) in fewer


def test_nothing_is_detected_without_labels(loaded):
    for entry in loaded.values():
        found = entry.detector(noise(2), [[], LABELS[:1]])
        assert found[0] == []
        assert all(entry.label == LABELS[0] for entry in found[1])


def test_open_labels_are_a_phrases_words(loaded):
    label = loaded["owlvit"].detector.label
    assert label("A  Red, car.") == "a red car"
    assert label(" ... ") is None
    assert len(label("word " * 40).split()) == MOST_WORDS


def test_long_phrases_are_cut_and_not_refused(loaded):
    for entry in loaded.values():
        assert isinstance(entry.detector(noise(), [[entry.detector.label("elephant " * 40)]])[0], list)


def test_closed_labels_are_the_last_class_a_phrase_names(tmp_path):
    scenes = ClosedVocabulary(SceneDetector())
    assert scenes.label("two red Circles") == "circle"
    assert scenes.label("a circle on a square") == "square"
    assert scenes.label("the background") is None
    tiny_mask2former(tmp_path)
    entry = load_layout_detector(str(tmp_path))
    assert isinstance(entry.detector, ClosedVocabulary)
    assert entry.detector.label("a brown baseball glove") == "baseball glove"
    assert entry.detector.label("three buses") == "bus"
    assert {item.label for found in entry.detector(noise(), [["dog"]]) for item in found} <= set(CLASSES)


def test_detectors_are_described(loaded, tmp_path):
    assert load_layout_detector("scenes").description["detector"] == "scenes"
    assert isinstance(loaded["owlvit"].detector, OwlDetector)
    assert isinstance(loaded["grounding-dino"].detector, GroundingDinoDetector)
    assert loaded["owlv2"].description["detector"] == "owlv2"
    assert loaded["owlv2"].description["settings"]["least_score"] == 0.1
    assert set(loaded["owlv2"].files) == {"detector/model.safetensors"}
    with pytest.raises(UserError, match="nowhere/at/all cannot be loaded as a detector"):
        load_layout_detector("nowhere/at/all")
    tiny_clip(tmp_path)
    with pytest.raises(UserError, match="is a clip, not one of GroundingDinoForObjectDetection"):
        load_layout_detector(str(tmp_path))
