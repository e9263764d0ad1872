"""Open-vocabulary detectors of transformers: Grounding DINO (Liu et al., 2024), OWL-ViT, OWLv2 (Minderer et al.)."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_convert

from got_core.chain.parser import SIDE
from got_core.detection.base import Detection, PhraseDetector, words_of
from got_core.types import to_pil

MOST_WORDS = 16
"""Words of a phrase that are used; more than any caption model was trained to take for one object."""

Found = tuple[Float[Tensor, "n 4"], Float[Tensor, " n"], list[int]]
"""Boxes (x1, y1, x2, y2) as fractions of width and height, scores, and the index of each one's label."""


class OpenVocabulary(nn.Module, PhraseDetector):
    """A detector that takes words: one query for each distinct phrase, in lower case without punctuation.

    Images are processed one by one, because each has other phrases.

    Args:
        model: A model of transformers.
        processor: Its processor, with a fast tokenizer.
        least_score: Objects up to this score are left out; by default the published threshold.
        same_object: Of boxes of one label that overlap more than this (IoU), only the most confident counts; 1 keeps
            all.
    """

    least_score: float

    def __init__(self, model: Any, processor: Any, least_score: float | None = None, same_object: float = 0.5) -> None:
        super().__init__()
        self.model, self.processor = model, processor
        self.least_score, self.same_object = self.least_score if least_score is None else least_score, same_object
        self.settings = {"least_score": self.least_score, "same_object": same_object}

    def label(self, phrase: str) -> str | None:
        """Return the phrase's first `MOST_WORDS` words in lower case, or None where it has no word."""
        return " ".join(words_of(phrase)[:MOST_WORDS]) or None

    @abstractmethod
    def look(self, image: Float[Tensor, "3 H W"], labels: Sequence[str]) -> Found:
        """Detect objects of some labels, at least one, that score above `least_score` in an image in [-1, 1]."""

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "b 3 H W"], labels: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """Detect in each image the objects of its labels."""
        return [self._detect(image, wanted) if wanted else [] for image, wanted in zip(images, labels, strict=True)]

    def _detect(self, image: Float[Tensor, "3 H W"], labels: Sequence[str]) -> list[Detection]:
        boxes, scores, indices = self.look(image, labels)
        boxes = SIDE * boxes.float().clamp(0, 1)
        chosen = batched_nms(boxes, scores.float(), torch.tensor(indices, device=boxes.device).long(), self.same_object)
        detections = []
        for i in chosen.tolist():
            x1, y1, x2, y2 = boxes[i].tolist()
            if x1 < x2 and y1 < y2:
                detections.append(Detection(labels[indices[i]], None, (x1, y1, x2, y2), float(scores[i])))
        return detections


QUERY = "a photo of {}"
"""The query of a phrase, as OWL-ViT and OWLv2 were trained."""


class OwlDetector(OpenVocabulary):
    """OWL-ViT or OWLv2: each phrase is a query of its own, and a box gets the phrase whose query fits it best.

    Neither model was trained to find an object only once.
    """

    least_score = 0.1

    def look(self, image: Float[Tensor, "3 H W"], labels: Sequence[str]) -> Found:
        """See `OpenVocabulary.look`. A query that is longer than the model's limit is cut."""
        inputs = self.processor(
            images=[to_pil(image)],
            text=[[QUERY.format(label) for label in labels]],
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(image.device)
        height, width = image.shape[-2:]
        (found,) = self.processor.post_process_grounded_object_detection(
            self.model(**inputs), threshold=self.least_score, target_sizes=[(height, width)]
        )
        size = torch.tensor([width, height, width, height], device=image.device)
        return found["boxes"] / size, found["scores"], found["labels"].tolist()


END = ". "
"""Ends a phrase in a caption."""


class GroundingDinoDetector(OpenVocabulary):
    """Grounding DINO: an image's phrases make one caption ("a dog. a red car. "), or several where one is too short.

    A box's score is its highest probability over the caption's tokens, as in the authors' code. Its label is the
    phrase of the most probable token. A phrase that is longer than the limit of a caption is cut.
    """

    least_score = 0.35

    def look(self, image: Float[Tensor, "3 H W"], labels: Sequence[str]) -> Found:
        """See `OpenVocabulary.look`."""
        boxes, scores, indices = [], [], []
        for group in self._captions(labels):
            found = self._query(image, [labels[index] for index in group])
            boxes.append(found[0])
            scores.append(found[1])
            indices += [group[index] for index in found[2]]
        return torch.cat(boxes), torch.cat(scores), indices

    def _captions(self, labels: Sequence[str]) -> list[list[int]]:
        """Indices of the labels, grouped by captions."""
        groups: list[list[int]] = [[]]
        for index in range(len(labels)):
            caption = "".join(labels[other] + END for other in [*groups[-1], index])
            if groups[-1] and len(self.processor.tokenizer(caption).input_ids) > self.model.config.max_text_len:
                groups.append([])
            groups[-1].append(index)
        return groups

    def _query(self, image: Float[Tensor, "3 H W"], labels: Sequence[str]) -> Found:
        caption = "".join(label + END for label in labels)
        cut = {"truncation": True, "max_length": self.model.config.max_text_len}
        offsets = self.processor.tokenizer(caption, return_offsets_mapping=True, **cut)["offset_mapping"]
        inputs = self.processor(images=[to_pil(image)], text=[caption], return_tensors="pt", **cut).to(image.device)
        outputs = self.model(**inputs)
        probabilities = outputs.logits[0].float().sigmoid()
        scores = probabilities.max(dim=-1).values
        confident = scores > self.least_score
        likeliest = [probabilities[confident][:, own].max(dim=-1).values for own in _tokens(offsets, labels)]
        boxes = box_convert(outputs.pred_boxes[0][confident], "cxcywh", "xyxy")
        return boxes, scores[confident], torch.stack(likeliest).argmax(dim=0).tolist()


def _tokens(offsets: Sequence[tuple[int, int]], labels: Sequence[str]) -> list[list[int]]:
    """Indices of each label's tokens in a caption, from the first and last character of each token."""
    tokens, start = [], 0
    for label in labels:
        end = start + len(label)
        tokens.append([index for index, (first, last) in enumerate(offsets) if start <= first < last <= end])
        start = end + len(END)
    return tokens
