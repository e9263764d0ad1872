"""Open-vocabulary detectors of transformers: Grounding DINO (Liu et al., 2024), OWL-ViT, OWLv2 (Minderer et al.)."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import box_convert
from transformers import GroundingDinoForObjectDetection, Owlv2ForObjectDetection, OwlViTForObjectDetection

from got_core.data.visualization import to_pil
from got_core.detection.base import SAME_OBJECT, OpenVocabulary

OWL_LEAST_SCORE = 0.1
"""transformers' threshold for both."""

QUERY = "a photo of {}"
"""What is asked for a phrase, as both were trained."""


class OwlDetector(OpenVocabulary):
    """Asks for each phrase in a query of its own; a box gets the phrase whose query fits it best.

    Args:
        model: OWL-ViT or OWLv2.
        processor: Its processor.
        least_score: Objects up to this score are left out.
        same_object: See `OpenVocabulary`; neither model was trained to find an object only once.
    """

    def __init__(
        self,
        model: OwlViTForObjectDetection | Owlv2ForObjectDetection,
        processor: Any,
        least_score: float = OWL_LEAST_SCORE,
        same_object: float = SAME_OBJECT,
    ) -> None:
        super().__init__(least_score, same_object)
        self.model = model
        self.processor = processor

    def look(
        self, image: Float[Tensor, "3 H W"], labels: Sequence[str]
    ) -> tuple[Float[Tensor, "n 4"], Float[Tensor, " n"], list[int]]:
        """See `OpenVocabulary.look`. A query that is longer than the model takes is cut."""
        config: Any = self.model.config
        inputs = self.processor(
            images=[to_pil(image)],
            text=[[QUERY.format(label) for label in labels]],
            truncation=True,
            max_length=config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(image.device)
        height, width = image.shape[-2:]
        outputs = self.model(**inputs)
        (found,) = self.processor.post_process_grounded_object_detection(
            outputs, threshold=self.least_score, target_sizes=[(height, width)]
        )
        size = torch.tensor([width, height, width, height], device=image.device)
        return found["boxes"] / size, found["scores"], found["labels"].tolist()


LEAST_SCORE = 0.35
"""The authors' threshold for boxes."""

END = ". "
"""Ends a phrase in a caption; phrases are read apart from each other."""


class GroundingDinoDetector(OpenVocabulary):
    """Asks for an image's phrases in one caption ("a dog. a red car. "), or in several where they are too long for one.

    A box's score is its highest probability over the caption's tokens, as in the authors' code; its label is the
    phrase with the likeliest token. A phrase that is longer than a caption may be is cut.

    Args:
        model: Grounding DINO.
        processor: Its processor, with a fast tokenizer.
        least_score: Objects up to this score are left out.
        same_object: See `OpenVocabulary`.
    """

    def __init__(
        self,
        model: GroundingDinoForObjectDetection,
        processor: Any,
        least_score: float = LEAST_SCORE,
        same_object: float = SAME_OBJECT,
    ) -> None:
        super().__init__(least_score, same_object)
        self.model = model
        self.processor = processor

    def look(
        self, image: Float[Tensor, "3 H W"], labels: Sequence[str]
    ) -> tuple[Float[Tensor, "n 4"], Float[Tensor, " n"], list[int]]:
        """See `OpenVocabulary.look`."""
        boxes, scores, places = [], [], []
        for group in self._captions(labels):
            found = self._ask(image, [labels[place] for place in group])
            boxes.append(found[0])
            scores.append(found[1])
            places += [group[place] for place in found[2]]
        return torch.cat(boxes), torch.cat(scores), places

    def _captions(self, labels: Sequence[str]) -> list[list[int]]:
        """The labels' places, those together that one caption has room for."""
        config: Any = self.model.config
        groups: list[list[int]] = [[]]
        for place in range(len(labels)):
            caption = "".join(labels[other] + END for other in [*groups[-1], place])
            if groups[-1] and len(self.processor.tokenizer(caption).input_ids) > config.max_text_len:
                groups.append([])
            groups[-1].append(place)
        return groups

    def _ask(
        self, image: Float[Tensor, "3 H W"], labels: Sequence[str]
    ) -> tuple[Float[Tensor, "n 4"], Float[Tensor, " n"], list[int]]:
        caption = "".join(label + END for label in labels)
        config: Any = self.model.config
        cut = {"truncation": True, "max_length": config.max_text_len}
        text = self.processor.tokenizer(caption, return_offsets_mapping=True, **cut)
        inputs = self.processor(images=[to_pil(image)], text=[caption], return_tensors="pt", **cut)
        inputs = inputs.to(image.device)
        outputs = self.model(**inputs)
        shares = outputs.logits[0].float().sigmoid()
        scores = shares.max(dim=-1).values
        kept = scores > self.least_score
        likeliest = [shares[kept][:, tokens].max(dim=-1).values for tokens in _tokens(text["offset_mapping"], labels)]
        boxes = box_convert(outputs.pred_boxes[0][kept], "cxcywh", "xyxy")
        return boxes, scores[kept], torch.stack(likeliest).argmax(dim=0).tolist()


def _tokens(offsets: Sequence[tuple[int, int]], labels: Sequence[str]) -> list[list[int]]:
    """The places of each label's tokens in a caption, from where each token begins and ends in its characters."""
    found, start = [], 0
    for label in labels:
        end = start + len(label)
        found.append([place for place, (first, last) in enumerate(offsets) if start <= first < last <= end])
        start = end + len(END)
    return found
