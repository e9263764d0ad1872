"""Detectors, GenEval's rules over detections (Ghosh et al., NeurIPS 2023), and loading of saved models."""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig

from got_core.errors import UserError, one_line
from got_core.paths import locate
from got_core.planning.boxes import DIRECTION, SHRINK, AnyBox, box_relations
from got_core.weights.loading import load_whole

LOADING_ERRORS = (OSError, ValueError, TypeError, KeyError, StrictDataclassError)
"""Raised by transformers where a saved model cannot be loaded."""


def load_frozen(family: Any, processor: Any, source: str, **settings: Any) -> tuple[Any, Any]:
    """Load a frozen model of transformers in evaluation mode, and its processor. Only safetensors, no remote code.

    Args:
        family: The model's class.
        processor: The processor's class.
        source: A folder in transformers' layout, or a hub id.
        settings: Further arguments of the model.

    Raises:
        UserError: It cannot be loaded, for any reason, or is a model of another kind.
    """
    try:
        path = locate(source)
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        if not isinstance(config, family.config_class):
            raise ValueError(f"it is a {config.model_type}")
        model = load_whole(family, path, use_safetensors=True, dtype=torch.float32, **settings)
        loaded = processor.from_pretrained(path)
        tokenizer = getattr(loaded, "tokenizer", None)
        if tokenizer is not None and len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise ValueError("its tokenizer's files are missing, all words would be alike")
        return model.eval().requires_grad_(False), loaded
    except LOADING_ERRORS as error:
        raise UserError(f"{source} cannot be loaded as {family.__name__}: {one_line(error)}") from error


def weight_files(source: str) -> list[Path]:
    """List the weight files of a model that has been loaded, from a folder or from the cache of the hub.

    Raises:
        UserError: There is no model at the source.
    """
    folder = Path(locate(source))
    if not folder.is_dir():
        cached = try_to_load_from_cache(source, "config.json")
        if not isinstance(cached, str):
            raise UserError(f"{source}: not in the cache of the hub")
        folder = Path(cached).parent
    return sorted(folder.glob("*.safetensors"))


FROM = "from"
"""Key of a detector's description: the sources it was loaded from. They do not identify the weights."""

UNKNOWN = "unknown"
"""The label of an object that exists, but is of no class that the detector knows."""


@dataclass(frozen=True)
class Detection:
    """One detected object.

    Attributes:
        label: Its class, or `UNKNOWN`.
        colour: Its colour word, or None where the detector gives no colours.
        box: (x1, y1, x2, y2) in 0 to 1000, relative to image width and height.
        score: Confidence in 0 to 1.
    """

    label: str
    colour: str | None
    box: tuple[float, float, float, float]
    score: float


class Detector(ABC):
    """Finds objects in images.

    Attributes:
        classes: The labels it can give; None where it takes any word.
        colour_words: The colours it can give; None where it takes any word.
    """

    classes: Collection[str] | None = None
    colour_words: Collection[str] | None = None

    @abstractmethod
    def __call__(self, images: Float[Tensor, "b 3 H W"]) -> list[list[Detection]]:
        """Detect the objects of each image, images in [-1, 1]."""

    def look_for(
        self, images: Float[Tensor, "b 3 H W"], coloured: Sequence[Mapping[str, int]]
    ) -> list[list[Detection]]:
        """Detect the objects of each image with the colours that are needed. Other objects may have none.

        A detector that takes time to find colours computes only these.

        Args:
            images: In [-1, 1].
            coloured: For each image, the classes whose colour matters, and of how many of their most confident objects.
        """
        return self(images)


CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""The six categories, by the names in GenEval's metadata (`tag`)."""


@dataclass(frozen=True)
class Rules:
    """GenEval's thresholds; the defaults are the published ones, chosen for Mask2Former.

    Attributes:
        confidence: A detection counts where its score is above this.
        counting_confidence: The same for prompts of the category `counting`.
        max_objects: Most detections of a class that count, the most confident first.
        shrink: Fraction of the summed sizes by which the offset of two centres is shortened on each axis.
        direction: A relation holds where the shortened offset divided by the unshortened distance exceeds this.
    """

    confidence: float = 0.3
    counting_confidence: float = 0.9
    max_objects: int = 16
    shrink: float = SHRINK
    direction: float = DIRECTION


MASK2FORMER = Rules()


def shows(
    metadata: Mapping[str, Any],
    detections: Sequence[Detection],
    rules: Rules = MASK2FORMER,
    size: tuple[int, int] = (1, 1),
) -> tuple[bool, str]:
    """Decide whether an image satisfies its prompt, and say what is wrong where it does not.

    All include clauses must hold, and no exclude clause may hold. Only the `count` most confident objects of a class
    count: all of them must have the colour, and each must have the relation to each object of the clause that it refers
    to, which must itself hold.

    Args:
        metadata: GenEval's: `tag`, and the clauses `include` and `exclude`, each with `class` and `count`, and where
            required with `color` and `position` (relation, index of another include clause).
        detections: The objects of the image. Of equal scores the last listed counts as the most confident.
        rules: Thresholds.
        size: (height, width) of the image in any unit, for directions in images that are not square.

    Returns:
        (holds, reasons joined by "; "), the latter empty where it holds.
    """
    confidence = rules.counting_confidence if metadata.get("tag") == "counting" else rules.confidence
    by_class = _by_class(detections, confidence, rules.max_objects)
    groups: list[Sequence[Detection] | None] = []
    reasons = []
    for clause in metadata.get("include", ()):
        objects = by_class.get(clause["class"], [])[: clause["count"]]
        reason = _failure(clause, objects, groups, rules, size)
        groups.append(None if reason else objects)
        reasons.append(reason)
    for clause in metadata.get("exclude", ()):
        number = len(by_class.get(clause["class"], []))
        if number >= clause["count"]:
            reasons.append(f"expected fewer than {clause['count']} {clause['class']}, found {number}")
    reasons = [reason for reason in reasons if reason]
    return not reasons, "; ".join(reasons)


def coloured(metadata: Mapping[str, Any]) -> dict[str, int]:
    """List the classes whose colours a prompt requires, and of how many of their most confident objects."""
    required: dict[str, int] = {}
    for clause in metadata.get("include", ()):
        if "color" in clause:
            required[clause["class"]] = max(clause["count"], required.get(clause["class"], 0))
    return required


def relations(a: AnyBox, b: AnyBox, rules: Rules = MASK2FORMER, size: tuple[int, int] = (1, 1)) -> frozenset[str]:
    """Find where box `a` lies relative to box `b`: none, one or two of `got_core.planning.boxes.RELATIONS`."""
    return box_relations(a, b, size, rules.shrink, rules.direction)


def by_confidence(scores: Sequence[float]) -> list[int]:
    """Return the indices of scores, compared in float32, the highest first; of equal ones the last listed first.

    This is the order in which GenEval's `evaluate()` looks at detections.
    """
    return np.argsort(np.asarray(scores, dtype=np.float32), kind="stable")[::-1].tolist()


def _by_class(detections: Sequence[Detection], threshold: float, most: int) -> dict[str, list[Detection]]:
    """Detections above the threshold by class, the most confident first, at most `most` of each."""
    by_class: dict[str, list[Detection]] = {}
    for detection in (detections[index] for index in by_confidence([each.score for each in detections])):
        if np.float32(detection.score) > np.float32(threshold):
            by_class.setdefault(detection.label, []).append(detection)
    return {label: members[:most] for label, members in by_class.items()}


def _failure(
    clause: Mapping[str, Any],
    objects: Sequence[Detection],
    groups: Sequence[Sequence[Detection] | None],
    rules: Rules,
    size: tuple[int, int],
) -> str:
    """Why an include clause does not hold; empty where it does."""
    label, count = clause["class"], clause["count"]
    if len(objects) < count:
        return f"expected {count} {label}, found {len(objects)}"
    if "color" in clause:
        colours = [detection.colour for detection in objects]
        if colours.count(clause["color"]) < count:
            return f"expected {count} {clause['color']} {label}, found {', '.join(map(str, colours))}"
    if "position" in clause:
        relation, index = clause["position"]
        target = groups[index]
        if target is None:
            return f"no {index + 1}. object for {label} to be {relation}"
        if not all(relation in relations(a.box, b.box, rules, size) for a in objects for b in target):
            return f"expected {label} {relation} object {index + 1}"
    return ""


class PhraseDetector(ABC):
    """Finds objects of given phrases.

    A plan's region of phrase p and a detection d are of one kind when `label(p) == d.label`.

    Attributes:
        settings: Thresholds that results report.
    """

    settings: Mapping[str, float] = {}

    @abstractmethod
    def label(self, phrase: str) -> str | None:
        """Return the label of detections of a phrase; None where the phrase names nothing that can be detected."""

    @abstractmethod
    def __call__(self, images: Float[Tensor, "b 3 H W"], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """Detect the objects of each image.

        Args:
            images: In [-1, 1].
            labels: For each image, the distinct labels to detect.
        """


class ClosedVocabulary(nn.Module, PhraseDetector):
    """A detector of a fixed set of classes. The label of a phrase is the last class that it names.

    Of two classes that end at the same word the longer one counts ("baseball bat"). All detected objects are returned,
    requested or not.

    Args:
        detector: Finds objects of its classes.

    Raises:
        ValueError: The detector has no fixed classes.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        if detector.classes is None:
            raise ValueError(f"{type(detector).__name__} has no fixed classes to compare phrases with")
        self.detector = detector
        self._classes = {tuple(words_of(name)): name for name in detector.classes}

    def label(self, phrase: str) -> str | None:
        """Return the last class that the phrase names, in the singular or plural."""
        words = words_of(phrase)
        for end in range(len(words), 0, -1):
            for start in range(end):
                for plural in ("", "s", "es"):
                    name = self._classes.get((*words[start : end - 1], words[end - 1].removesuffix(plural)))
                    if name is not None:
                        return name
        return None

    def forward(self, images: Float[Tensor, "b 3 H W"], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """Detect all objects of each image, images in [-1, 1]."""
        return self.detector(images)


def words_of(phrase: str) -> list[str]:
    """List the words of a phrase in lower case, without punctuation."""
    return re.findall(r"[\w'-]+", phrase.lower())
