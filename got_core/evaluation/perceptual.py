"""LPIPS (Zhang et al., 2018) place by place, from weights of torchvision's AlexNet or VGG16 in a file."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.functional.image.lpips import _LPIPS

from got_core.errors import UserError
from got_core.loading import what_differs

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
