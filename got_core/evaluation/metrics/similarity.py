"""How alike images and captions are: CLIP and DINO embeddings, and LPIPS (Zhang et al., 2018)."""

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchmetrics.functional.image.lpips import _LPIPS
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

from got_core.detection.base import load_frozen
from got_core.errors import UserError, one_line
from got_core.paths import locate
from got_core.types import to_pil
from got_core.weights.loading import what_differs

Network = Literal["alex", "vgg"]

FEATURES = "features."
"""Begins the names of the weights that LPIPS needs, in torchvision's files."""

SMALLEST = 64
"""Images of a shorter side are enlarged to it, as the network cannot look at smaller ones."""


class PerceptualDistance(nn.Module):
    """LPIPS with torchmetrics' linear layers; 0 where two images are the same.

    Args:
        network: Which of torchvision's networks.
        features: Its weights, `features.*`.

    Raises:
        ValueError: They are another network's.
    """

    def __init__(self, network: Network, features: dict[str, Tensor]) -> None:
        super().__init__()
        self.model = _LPIPS(net=network, pnet_rand=True, spatial=True)
        own = {name: f"{FEATURES}{name.split('.', 1)[1]}" for name in self.model.net.state_dict()}
        shapes = {own[name]: tensor.shape for name, tensor in self.model.net.state_dict().items()}
        misshapen = [name for name, shape in shapes.items() if name in features and features[name].shape != shape]
        if problem := what_differs(shapes.keys() - features.keys(), features.keys() - shapes.keys(), misshapen):
            raise ValueError(problem)
        self.model.net.load_state_dict({name: features[place] for name, place in own.items()})

    @classmethod
    def from_file(cls, file: Path) -> "PerceptualDistance":
        """From a file of torchvision's, such as alexnet-owt-7be5be79.pth or vgg16-397923af.pth.

        Raises:
            UserError: There is no such file, or other weights are in it.
        """
        try:
            saved = torch.load(file, map_location="cpu", weights_only=True)
            features = {name: tensor for name, tensor in saved.items() if name.startswith(FEATURES)}
        except FileNotFoundError:
            raise UserError(
                f"{file}: no such file; LPIPS needs torchvision's AlexNet or VGG16, such as alexnet-owt-7be5be79.pth "
                "from download.pytorch.org/models"
            ) from None
        except (OSError, RuntimeError, EOFError, AttributeError, UnpicklingError) as error:
            raise UserError(f"{file}: not readable as weights ({type(error).__name__})") from error
        problems = []
        for network in get_args(Network):
            try:
                return cls(network, features)
            except ValueError as error:
                problems.append(f"for {network} {error}")
        raise UserError(f"{file}: neither torchvision's AlexNet nor its VGG16 ({problems[0]})")

    @torch.no_grad()
    def forward(self, first: Float[Tensor, "3 H W"], second: Float[Tensor, "3 H W"]) -> Float[Tensor, "H W"]:
        """The distance at each pixel of two images in [-1, 1]; its mean is LPIPS."""
        height, width = first.shape[-2:]
        grown = max(1.0, SMALLEST / min(height, width))
        size = (round(height * grown), round(width * grown))
        pair = torch.stack([first, second])
        if grown > 1:
            pair = nn.functional.interpolate(pair, size, mode="bilinear", align_corners=False).clamp(-1, 1)
        distance = self.model(pair[:1], pair[1:])
        distance = nn.functional.interpolate(distance, (height, width), mode="area")
        return rearrange(distance, "1 1 h w -> h w")


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
        return cls(*load_frozen(CLIPModel, CLIPProcessor, place))

    @torch.no_grad()
    def images(self, images: Images) -> Float[Tensor, "n d"]:
        """One vector an image."""
        inputs = self.processor(images=[to_pil(image) for image in images], return_tensors="pt")
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
        return cls(*load_frozen(family, AutoImageProcessor, place, **settings))

    @torch.no_grad()
    def images(self, images: Images) -> Float[Tensor, "n d"]:
        """One vector an image."""
        inputs = self.processor(images=[to_pil(image) for image in images], return_tensors="pt")
        states = self.model(pixel_values=inputs["pixel_values"].to(self.model.device)).last_hidden_state
        return normalize(states[:, 0], dim=-1)
