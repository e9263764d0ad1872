"""FID and KID between two sets of images, by Inception v3 from weights in a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d
from torchmetrics import Metric
from torchmetrics.image.kid import poly_mmd
from torchmetrics.utilities.data import dim_zero_cat
from torchvision.models.inception import Inception3, InceptionA, InceptionC, InceptionE

from got_core.errors import UserError
from got_core.evaluation.statistics import Interval
from got_core.weights.loading import what_differs

SUBSETS = 100
"""Subsets that KID is averaged over (Binkowski et al., 2018)."""

SUBSET_SIZE = 1000
"""Images of each set in a subset, where there are twice as many."""

NORMAL_95 = 1.96
"""Standard deviations on either side of the mean that hold 95% of a normal distribution."""


class FeatureStore(Metric):
    """The features of items, gathered from all ranks; an item that several ranks have looked at counts once.

    Features that are NaN stand for an item that could not be read.
    """

    full_state_update = False
    places: list[Tensor]
    features: list[Tensor]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_state("places", [], dist_reduce_fx="cat")
        self.add_state("features", [], dist_reduce_fx="cat")

    def update(self, places: Int[Tensor, " k"], features: Float[Tensor, "k d"]) -> None:
        """Keep the features of the items at some places."""
        self.places.append(places)
        self.features.append(features)

    def compute(self) -> tuple[Int[Tensor, " n"], Float[Tensor, "n d"]]:
        """The places of the items that could be read, in order, and their features."""
        places, features = torch.atleast_1d(dim_zero_cat(self.places)), dim_zero_cat(self.features)
        found = {int(place): row for row, place in enumerate(places.tolist()) if not features[row].isnan().any()}
        rows = torch.tensor([found[place] for place in sorted(found)], dtype=torch.long, device=features.device)
        return places[rows], features[rows]


def frechet_distance(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> float:
    """FID (Heusel et al., 2017): the distance of two normal distributions of the features' means and covariances.

    The trace of the root of the product of covariances is the sum of the singular values of the product of their
    factors, which stays exact, and cheap, where there are fewer images than features.

    Raises:
        ValueError: Fewer than two items.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"FID needs two images of each set at least, not {len(first)} and {len(second)}")
    means = [rows.double().mean(dim=0) for rows in (first, second)]
    centred = [
        (rows.double() - mean) / (len(rows) - 1) ** 0.5 for rows, mean in zip((first, second), means, strict=True)
    ]
    factors = [torch.linalg.qr(rows, mode="r").R for rows in centred]
    common = torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    spreads = sum((rows**2).sum() for rows in centred)
    return float(((means[0] - means[1]) ** 2).sum() + spreads - 2 * common)


@dataclass(frozen=True)
class KernelDistance:
    """KID.

    Attributes:
        mean: Over the subsets.
        interval: 95%, by subsampling (Politis and Romano, 1994): the spread over subsets of b of n images, times
            sqrt(b / (n - b)).
        subset_size: b.
    """

    mean: float
    interval: Interval
    subset_size: int


def kernel_distance(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"], seed: int = 0) -> KernelDistance:
    """KID (Binkowski et al., 2018): the unbiased squared maximum mean discrepancy under a cubic kernel.

    Args:
        first, second: Features.
        seed: Of the choice of subsets.

    Raises:
        ValueError: Fewer than four items.
    """
    fewest = min(len(first), len(second))
    if fewest < 4:
        raise ValueError(f"KID needs four images of each set at least, not {len(first)} and {len(second)}")
    size = min(SUBSET_SIZE, fewest // 2)
    generator = Generator().manual_seed(seed)
    drawn = []
    for _ in range(SUBSETS):
        chosen = [torch.randperm(len(rows), generator=generator)[:size] for rows in (first, second)]
        some, others = (
            rows[choice.to(rows.device)].double() for rows, choice in zip((first, second), chosen, strict=True)
        )
        drawn.append(float(poly_mmd(some, others)))
    values = torch.tensor(drawn, dtype=torch.float64)
    mean = float(values.mean())
    reach = NORMAL_95 * float(values.std()) * (size / (fewest - size)) ** 0.5
    return KernelDistance(mean, (mean - reach, mean + reach), size)


SIDE = 299
"""Pixels of a side of what the network is shown."""

FEATURES = 2048
"""Width of what it makes of an image, after its last pooling."""

FID_CLASSES = 1008
"""Outputs of FID's own network."""

HEAD, AUXILIARY, COUNTER = "fc.weight", "AuxLogits.", "num_batches_tracked"
"""Names of weights: of the last layer; of a branch that only training uses; of counters that nothing depends on."""

IMAGENET_MEAN, IMAGENET_SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What torchvision's weights expect of a channel in 0..1."""


def _mean(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    return avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _highest(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    return max_pool2d(x, 3, stride=1, padding=1)


class FidInceptionA(InceptionA):
    """Torchvision's block with a pooling that leaves out the padding."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Four branches, one after another in the channels."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_mean(x))], dim=1)


class FidInceptionC(InceptionC):
    """Torchvision's block with a pooling that leaves out the padding."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Four branches, one after another in the channels."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_mean(x))], dim=1)


class FidInceptionE(InceptionE):
    """Torchvision's block with a pooling that leaves out the padding, or takes the maximum.

    Args:
        channels: Of the input.
        highest: Take the maximum.
    """

    def __init__(self, channels: int, highest: bool) -> None:
        super().__init__(channels)
        self.pool = _highest if highest else _mean

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Four branches, two of them forked, one after another in the channels."""
        three, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        forks = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        forks += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *forks, self.branch_pool(self.pool(x))], dim=1)


def fid_inception() -> Inception3:
    """FID's own network, with random weights."""
    network = Inception3(FID_CLASSES, aux_logits=False, transform_input=False, init_weights=False)
    network.Mixed_5b = FidInceptionA(192, pool_features=32)
    network.Mixed_5c = FidInceptionA(256, pool_features=64)
    network.Mixed_5d = FidInceptionA(288, pool_features=64)
    for name, width in {"Mixed_6b": 128, "Mixed_6c": 160, "Mixed_6d": 160, "Mixed_6e": 192}.items():
        setattr(network, name, FidInceptionC(768, channels_7x7=width))
    network.Mixed_7b = FidInceptionE(1280, highest=False)
    network.Mixed_7c = FidInceptionE(2048, highest=True)
    return network


class InceptionFeatures(nn.Module):
    """The 2,048 features of an image before the last layer.

    Args:
        weights: Of FID's own network or of torchvision's, told apart by the number of classes.

    Attributes:
        kind: "fid" or "torchvision".

    Raises:
        ValueError: They are another network's.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        own = HEAD in weights and weights[HEAD].shape[0] == FID_CLASSES
        self.kind = "fid" if own else "torchvision"
        network = fid_inception() if own else Inception3(aux_logits=False, transform_input=False, init_weights=False)
        shapes = {name: tensor.shape for name, tensor in network.state_dict().items() if not name.endswith(COUNTER)}
        given = {name: tensor for name, tensor in weights.items() if not name.startswith(AUXILIARY)}
        given = {name: tensor for name, tensor in given.items() if not name.endswith(COUNTER)}
        misshapen = [name for name in shapes.keys() & given.keys() if shapes[name] != given[name].shape]
        if problem := what_differs(shapes.keys() - given.keys(), given.keys() - shapes.keys(), misshapen):
            raise ValueError(problem)
        network.load_state_dict(given, strict=False)
        network.fc = nn.Identity()
        self.network = network.eval().requires_grad_(False)
        mean, spread = ((0.5,) * 3, (0.5,) * 3) if own else (IMAGENET_MEAN, IMAGENET_SPREAD)
        self.register_buffer("mean", rearrange(torch.tensor(mean), "c -> 1 c 1 1"), persistent=False)
        self.register_buffer("spread", rearrange(torch.tensor(spread), "c -> 1 c 1 1"), persistent=False)

    @classmethod
    def from_file(cls, file: Path) -> "InceptionFeatures":
        """From a file of PyTorch's.

        Raises:
            UserError: There is no such file, or other weights are in it.
        """
        try:
            return cls(torch.load(file, map_location="cpu", weights_only=True))
        except FileNotFoundError:
            raise UserError(
                f"{file}: no such file; FID and KID need Inception v3: pt_inception-2015-12-05-6726825d.pth of "
                "github.com/mseitzer/pytorch-fid/releases, as published scores have it, or torchvision's"
            ) from None
        except ValueError as error:
            raise UserError(f"{file}: no Inception v3 of FID or torchvision: {error}") from error
        except (OSError, RuntimeError, EOFError, TypeError, AttributeError, UnpicklingError) as error:
            raise UserError(f"{file}: not readable as weights ({type(error).__name__})") from error

    def train(self, mode: bool = True) -> "InceptionFeatures":
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> Float[Tensor, "b features"]:
        """The features of images in [-1, 1], their sizes may differ; each is resized to 299 by 299 without a crop."""
        resized = [
            interpolate(rearrange(image, "c h w -> 1 c h w"), (SIDE, SIDE), mode="bilinear", antialias=True)
            for image in images
        ]
        shares = (torch.cat(resized).clamp(-1, 1) + 1) / 2
        features: Tensor = self.network((shares - self.mean) / self.spread)
        return features
