"""The colour of an object by GenEval's rule: CLIP, zero-shot, on the object alone."""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPProcessor

from got_core.evaluation.saved_judges import load_judge

COLOUR_WORDS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""GenEval's colours."""

TEMPLATES = ("a photo of a {colour} {label}", "a photo of a {colour}-colored {label}", "a photo of a {colour} object")
"""Captions whose embeddings, each of length 1, are averaged for a colour."""

BLANK = 153
"""The grey level, of 255, that takes the place of what is not the object."""


class ClipColours(nn.Module):
    """Tells the colours of objects: the one whose captions are nearest to the object's picture.

    Args:
        model: CLIP; GenEval's is ViT-L/14 of OpenAI.
        processor: Its processor.
    """

    def __init__(self, model: CLIPModel, processor: CLIPProcessor) -> None:
        super().__init__()
        self.model = model
        self.processor: Any = processor
        self._captions: dict[str, Float[Tensor, "colours d"]] = {}

    @classmethod
    def from_saved(cls, place: str) -> "ClipColours":
        """From a folder in transformers' layout or a hub id.

        Raises:
            UserError: There is no whole CLIP in that place.
        """
        return cls(*load_judge(CLIPModel, CLIPProcessor, place))

    @torch.no_grad()
    def forward(self, image: UInt8[Tensor, "3 H W"], masks: Bool[Tensor, "n H W"], labels: Sequence[str]) -> list[str]:
        """The colour of each object of an image; each mask covers at least one pixel."""
        return [COLOUR_WORDS[place] for place in self.likeness(image, masks, labels).argmax(dim=1).tolist()]

    def likeness(
        self, image: UInt8[Tensor, "3 H W"], masks: Bool[Tensor, "n H W"], labels: Sequence[str]
    ) -> Float[Tensor, "n colours"]:
        """The cosine between the picture of each object and the captions of each colour."""
        if not labels:
            return torch.zeros(0, len(COLOUR_WORDS), device=image.device)
        pictures = [isolated(image, mask) for mask in masks]
        pixels = self.processor(images=pictures, return_tensors="pt")["pixel_values"].to(image.device)
        seen = normalize(self.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        captions = torch.stack([self.captions(label).to(image.device) for label in labels])
        return torch.einsum("nd,ncd->nc", seen, captions)

    def captions(self, label: str) -> Float[Tensor, "colours d"]:
        """What each colour of an object of that class is called, as one embedding of length 1 a colour."""
        if label not in self._captions:
            texts = [template.format(colour=word, label=label) for word in COLOUR_WORDS for template in TEMPLATES]
            inputs = self.processor(text=texts, padding=True, return_tensors="pt").to(self.model.device)
            read = normalize(self.model.get_text_features(**inputs).pooler_output, dim=-1)
            means = reduce(read, "(c t) d -> c d", "mean", c=len(COLOUR_WORDS))
            self._captions[label] = normalize(means, dim=-1)
        return self._captions[label]


def isolated(image: UInt8[Tensor, "3 H W"], mask: Bool[Tensor, "H W"]) -> UInt8[Tensor, "3 h w"]:
    """The smallest part of an image that holds a masked object, all around the object grey."""
    left, top, right, bottom = mask_box(mask)
    blanked = torch.where(rearrange(mask, "H W -> 1 H W"), image, BLANK)
    return blanked[:, top:bottom, left:right]


def mask_box(mask: Bool[Tensor, "H W"]) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2) in pixels of what a mask covers, the right and lower ends exclusive."""
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
