"""Detectors and what they find, GenEval's rules over it (Ghosh et al., NeurIPS 2023), and loading of saved models."""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import batched_nms
from transformers import AutoConfig

from got_core.chain.parser import SIDE
from got_core.errors import UserError, one_line
from got_core.paths import locate
from got_core.planning.boxes import DIRECTION, SHRINK, AnyBox, box_relations
from got_core.weights.loading import load_whole

CONFIG = "config.json"
"""Beside a model's weights, in a folder or in the cache of the hub."""


def load_judge(family: Any, processor: Any, place: str, **settings: Any) -> tuple[Any, Any]:
    """A frozen model of transformers in evaluation mode and its processor; safetensors only, no code of the model's.

    Args:
        family: The model's class.
        processor: The processor's class.
        place: A folder in transformers' layout, or a hub id.
        settings: Further arguments of the model.

    Raises:
        UserError: It cannot be loaded, whatever the reason, or is a model of another kind.
    """
    try:
        where = locate(place)
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        if not isinstance(config, family.config_class):
            raise ValueError(f"it is a {config.model_type}")
        model = load_whole(family, where, use_safetensors=True, dtype=torch.float32, **settings)
        reads = processor.from_pretrained(where)
        tokenizer = getattr(reads, "tokenizer", None)
        if tokenizer is not None and len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise ValueError("its tokenizer's files are not there, all words would be alike")
        return model.eval().requires_grad_(False), reads
    except (OSError, ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise UserError(f"{place} cannot be loaded as {family.__name__}: {one_line(error)}") from error


def weights_of(place: str) -> list[Path]:
    """The files of weights of a model that has been loaded, from a folder or from the cache of the hub.

    Raises:
        UserError: There is no model in that place.
    """
    where = Path(locate(place))
    if not where.is_dir():
        cached = try_to_load_from_cache(place, CONFIG)
        if not isinstance(cached, str):
            raise UserError(f"{place}: not in the cache of the hub")
        where = Path(cached).parent
    return sorted(where.glob("*.safetensors"))


FROM = "from"
"""In the description of a judge: the places it was loaded from, which say nothing of what was there."""

UNKNOWN = "unknown"
"""The label of an object that is there, but of no class the detector knows."""


@dataclass(frozen=True)
class Detection:
    """One found object.

    Attributes:
        label: Its class, or `UNKNOWN`.
        colour: Its colour word, or None where the detector does not tell colours.
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
        """The objects of each image, images in [-1, 1]."""

    def look_for(
        self, images: Float[Tensor, "b 3 H W"], coloured: Sequence[Mapping[str, int]]
    ) -> list[list[Detection]]:
        """The objects of each image, with the colours of those that are asked about; those of others may be untold.

        A detector that takes time to tell colours does no more than this.

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
        max_objects: At most so many detections of a class are looked at, the most confident first.
        shrink: Share of the summed sizes by which the offset of two centres is shortened on each axis.
        direction: A relation holds where the shortened offset over the unshortened distance exceeds this.
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
    """Whether an image shows what its prompt asks for, and what is wrong where it does not.

    Include clauses must all hold; any exclude clause that holds fails the image. Only the `count` most confident
    objects of a class are looked at: all of them must have the colour, and each must stand in the relation to each
    object of the clause it refers to, which must itself hold.

    Args:
        metadata: The prompt's clauses, as described at the top of this module.
        detections: The objects of the image, in any order.
        rules: Thresholds.
        size: (height, width) of the image in any unit, for directions in images that are not square.

    Returns:
        (holds, reasons joined by "; "), the latter empty where it holds.
    """
    found = _by_class(detections, _confidence(metadata, rules), rules.max_objects)
    groups: list[Sequence[Detection] | None] = []
    reasons = []
    for clause in metadata.get("include", ()):
        looked_at = found.get(clause["class"], [])[: clause["count"]]
        reason = _included(clause, looked_at, groups, rules, size)
        groups.append(None if reason else looked_at)
        reasons.append(reason)
    for clause in metadata.get("exclude", ()):
        number = len(found.get(clause["class"], []))
        if number >= clause["count"]:
            reasons.append(f"expected fewer than {clause['count']} {clause['class']}, found {number}")
    reasons = [reason for reason in reasons if reason]
    return not reasons, "; ".join(reasons)


def coloured(metadata: Mapping[str, Any]) -> dict[str, int]:
    """The classes whose colours a prompt asks for, and of how many of their most confident objects."""
    asked: dict[str, int] = {}
    for clause in metadata.get("include", ()):
        if "color" in clause:
            asked[clause["class"]] = max(clause["count"], asked.get(clause["class"], 0))
    return asked


def relations(a: AnyBox, b: AnyBox, rules: Rules = MASK2FORMER, size: tuple[int, int] = (1, 1)) -> frozenset[str]:
    """Where box `a` lies relative to box `b`: none, one or two of `got_core.planning.boxes.RELATIONS`."""
    return box_relations(a, b, size, rules.shrink, rules.direction)


def _confidence(metadata: Mapping[str, Any], rules: Rules) -> float:
    return rules.counting_confidence if metadata.get("tag") == "counting" else rules.confidence


def _by_class(detections: Sequence[Detection], threshold: float, most: int) -> dict[str, list[Detection]]:
    """Detections above the threshold by class, the most confident first, at most `most` of each."""
    found: dict[str, list[Detection]] = {}
    for detection in sorted(detections, key=lambda entry: entry.score, reverse=True):
        if detection.score > threshold:
            found.setdefault(detection.label, []).append(detection)
    return {label: members[:most] for label, members in found.items()}


def _included(
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
        colours = [entry.colour for entry in objects]
        if colours.count(clause["color"]) < count:
            return f"expected {count} {clause['color']} {label}, found {', '.join(map(str, colours))}"
    if "position" in clause:
        relation, place = clause["position"]
        target = groups[place]
        if target is None:
            return f"no {place + 1}. object for {label} to be {relation}"
        if not all(relation in relations(entry.box, other.box, rules, size) for entry in objects for other in target):
            return f"expected {label} {relation} object {place + 1}"
    return ""


MOST_WORDS = 16
"""Words of a phrase that are asked for; more than any caption model was trained to take for one object."""

SAME_OBJECT = 0.5
"""Two found boxes of one label that overlap more than this are one object."""

PLURALS = ("", "s", "es")
"""Endings under which a class is recognised in a phrase."""

_WORD = re.compile(r"[\w'-]+")


class PhraseDetector(ABC):
    """Finds objects of given phrases. What it finds is comparable with the phrases by `label`.

    A plan's region of phrase p and a detection d are of one kind when `label(p) == d.label`.

    Attributes:
        settings: Thresholds that results name.
    """

    settings: Mapping[str, float] = {}

    @abstractmethod
    def label(self, phrase: str) -> str | None:
        """The label that detections of a phrase get; None where the phrase names nothing it can look for."""

    @abstractmethod
    def __call__(self, images: Float[Tensor, "b 3 H W"], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """The objects of each image, images in [-1, 1].

        Args:
            images: What is looked at.
            labels: For each image, the distinct labels that are looked for.
        """


class ClosedVocabulary(nn.Module, PhraseDetector):
    """A detector of a fixed set of classes: a phrase is looked for by the last class that it names.

    Of two classes that end at the same word the longer is meant ("baseball bat"). The detector reports all that it
    finds, asked for or not.

    Args:
        detector: Finds objects of its classes.

    Raises:
        ValueError: The detector does not say which classes it knows.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        if detector.classes is None:
            raise ValueError(f"{type(detector).__name__} has no fixed classes, by which phrases could be compared")
        self.detector = detector
        self._classes = {tuple(words_of(name)): name for name in detector.classes}

    def label(self, phrase: str) -> str | None:
        """The last class that the phrase names, in the singular or with a plural's ending."""
        words = words_of(phrase)
        for end in range(len(words), 0, -1):
            for start in range(end):
                for plural in PLURALS:
                    singular = words[end - 1].removesuffix(plural) if plural else words[end - 1]
                    name = self._classes.get((*words[start : end - 1], singular))
                    if name is not None:
                        return name
        return None

    def forward(self, images: Float[Tensor, "b 3 H W"], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """All objects of each image, images in [-1, 1]."""
        return self.detector(images)


class OpenVocabulary(nn.Module, PhraseDetector):
    """A detector that is asked with words: one query for each distinct phrase, in lower case without punctuation.

    Images are looked at one by one, as each is asked about other phrases.

    Args:
        least_score: Objects up to this score are left out.
        same_object: Of found boxes of one label that overlap more than this, the most confident is kept; 1 keeps all.
    """

    def __init__(self, least_score: float, same_object: float = SAME_OBJECT) -> None:
        super().__init__()
        self.least_score, self.same_object = least_score, same_object
        self.settings = {"least_score": least_score, "same_object": same_object}

    def label(self, phrase: str) -> str | None:
        """The phrase's first `MOST_WORDS` words in lower case, or None where it has no word."""
        return " ".join(words_of(phrase)[:MOST_WORDS]) or None

    @abstractmethod
    def look(
        self, image: Float[Tensor, "3 H W"], labels: Sequence[str]
    ) -> tuple[Float[Tensor, "n 4"], Float[Tensor, " n"], list[int]]:
        """What is found of some labels, at least one, in an image in [-1, 1].

        Returns:
            Boxes (x1, y1, x2, y2) as shares of width and height, scores above `least_score`, and for each the place of
            its label.
        """

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "b 3 H W"], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """What is found in each image of the labels that are looked for there."""
        return [self._find(image, asked) if asked else [] for image, asked in zip(images, labels, strict=True)]

    def _find(self, image: Float[Tensor, "3 H W"], labels: Sequence[str]) -> list[Detection]:
        boxes, scores, places = self.look(image, labels)
        boxes = SIDE * boxes.float().clamp(0, 1)
        kept = batched_nms(boxes, scores.float(), torch.tensor(places, device=boxes.device).long(), self.same_object)
        found = []
        for i in kept.tolist():
            x1, y1, x2, y2 = boxes[i].tolist()
            if x1 < x2 and y1 < y2:
                found.append(Detection(labels[places[i]], None, (x1, y1, x2, y2), float(scores[i])))
        return found


def words_of(phrase: str) -> list[str]:
    """The words of a phrase, in lower case, without punctuation."""
    return _WORD.findall(phrase.lower())
