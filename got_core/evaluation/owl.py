"""OWL-ViT (Minderer et al., ECCV 2022) and OWLv2 (NeurIPS 2023) in transformers' implementation."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Owlv2ForObjectDetection, OwlViTForObjectDetection

from got_core.evaluation.phrase_detection import SAME_OBJECT, OpenVocabulary
from got_core.pictures import to_picture

LEAST_SCORE = 0.1
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
        least_score: float = LEAST_SCORE,
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
            images=[to_picture(image)],
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
