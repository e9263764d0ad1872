"""Detectors that look for what is named to them, and closed ones made to answer in the same way."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import batched_nms

from got_core.evaluation.detection import Detection, Detector

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
        boxes = 1000 * boxes.float().clamp(0, 1)
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
