"""Images and captions as vectors: CLIP and DINO, for how much alike they are."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    CLIPModel,
    CLIPProcessor,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from got_core.errors import UserError, one_line
from got_core.evaluation.saved_judges import load_judge
from got_core.paths import locate
from got_core.pictures import to_picture

Images = Sequence[Float[Tensor, "3 _ _"]]
"""Images in [-1, 1]; their sizes may differ."""

DINO_MODELS: dict[type, tuple[Any, dict[str, Any]]] = {
    ViTConfig: (ViTModel, {"add_pooling_layer": False}),
    Dinov2Config: (Dinov2Model, {}),
}
"""The model of each configuration, and how to build it without what DINO does not have."""


class ClipEmbedding(nn.Module):
    """Embeddings of length 1 of images and captions in CLIP's common space.

    Args:
        model: CLIP.
        processor: Its processor.
    """

    def __init__(self, model: CLIPModel, processor: CLIPProcessor) -> None:
        super().__init__()
        self.model: Any = model
        self.processor: Any = processor

    @classmethod
    def from_saved(cls, place: str) -> "ClipEmbedding":
        """From a folder in transformers' layout or a hub id.

        Raises:
            UserError: There is no whole CLIP in that place.
        """
        return cls(*load_judge(CLIPModel, CLIPProcessor, place))

    @torch.no_grad()
    def images(self, images: Images) -> Float[Tensor, "n d"]:
        """One vector an image."""
        inputs = self.processor(images=[to_picture(image) for image in images], return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.model.device)
        return normalize(self.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """One vector a caption; what is too long for CLIP is cut."""
        longest = self.model.config.text_config.max_position_embeddings
        inputs = self.processor(
            text=list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self.model.device)
        return normalize(self.model.get_text_features(**inputs).pooler_output, dim=-1)


class DinoEmbedding(nn.Module):
    """Embeddings of length 1 of images: the class token of DINO or DINOv2 after its last layer.

    Args:
        model: `ViTModel` or `Dinov2Model`.
        processor: Its image processor.
    """

    def __init__(self, model: ViTModel | Dinov2Model, processor: Any) -> None:
        super().__init__()
        self.model = model
        self.processor = processor

    @classmethod
    def from_saved(cls, place: str) -> "DinoEmbedding":
        """From a folder in transformers' layout or a hub id.

        Raises:
            UserError: There is no whole ViT or DINOv2 in that place.
        """
        try:
            config = AutoConfig.from_pretrained(locate(place), trust_remote_code=False)
            family, settings = DINO_MODELS[type(config)]
        except (OSError, ValueError) as error:
            raise UserError(f"{place} cannot be loaded as DINO: {one_line(error)}") from error
        except KeyError:
            raise UserError(f"{place} is a {config.model_type}; DINO is a ViT or a DINOv2") from None
        return cls(*load_judge(family, AutoImageProcessor, place, **settings))

    @torch.no_grad()
    def images(self, images: Images) -> Float[Tensor, "n d"]:
        """One vector an image."""
        inputs = self.processor(images=[to_picture(image) for image in images], return_tensors="pt")
        states = self.model(pixel_values=inputs["pixel_values"].to(self.model.device)).last_hidden_state
        return normalize(states[:, 0], dim=-1)
