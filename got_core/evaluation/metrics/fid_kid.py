"""FID and KID between two sets of images, by FID's own Inception v3 from weights in a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torchmetrics.image.kid import poly_mmd

from got_core.errors import UserError, one_line
from got_core.evaluation.statistics import Interval

SUBSETS = 100
"""Subsets that KID is averaged over (Binkowski et al., 2018)."""

SUBSET_SIZE = 1000
"""Images of each set in a subset, where there are twice as many."""

NORMAL_95 = 1.96
"""Standard deviations on either side of the mean that hold 95% of a normal distribution."""


def frechet_distance(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> float:
    """Return FID (Heusel et al., 2017): the distance of normal distributions with the features' mean and covariance.

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
    """Return KID (Binkowski et al., 2018): the unbiased squared maximum mean discrepancy under a cubic kernel.

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
    distances = []
    for _ in range(SUBSETS):
        chosen = [torch.randperm(len(rows), generator=generator)[:size] for rows in (first, second)]
        some, others = (
            rows[choice.to(rows.device)].double() for rows, choice in zip((first, second), chosen, strict=True)
        )
        distances.append(float(poly_mmd(some, others)))
    values = torch.tensor(distances, dtype=torch.float64)
    mean = float(values.mean())
    reach = NORMAL_95 * float(values.std()) * (size / (fewest - size)) ** 0.5
    return KernelDistance(mean, (mean - reach, mean + reach), size)


FEATURES = 2048
"""Width of the features of an image, after the network's last pooling."""

COUNTER = "num_batches_tracked"
"""Counters of batches that some files of weights have and that nothing depends on."""


class InceptionFeatures(nn.Module):
    """The 2,048 features that FID is defined on, by torch-fidelity's port of the authors' TensorFlow network.

    Images are rounded to 8 bits and resized to 299 by 299 as TensorFlow 1 did it, bilinear without antialiasing: scores
    can be compared with published ones.

    Args:
        weights: Of that network.

    Attributes:
        kind: The library and its version, which decide the features together with the weights.

    Raises:
        UserError: torch-fidelity is not installed.
        ValueError: The weights are another network's.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        try:
            import torch_fidelity
        except ImportError as error:
            raise UserError('FID and KID need torch-fidelity: pip install "got-framework[fid]"') from error
        self.kind = f"torch-fidelity {torch_fidelity.__version__}"
        # The library unpickles whatever its file holds, so it gets one that holds these tensors and nothing else.
        file = BytesIO()
        torch.save({name: tensor for name, tensor in weights.items() if not name.endswith(COUNTER)}, file)
        file.seek(0)
        try:
            self.network = torch_fidelity.FeatureExtractorInceptionV3(
                "inception-v3-compat", [str(FEATURES)], feature_extractor_weights_path=file
            )
        except RuntimeError as error:
            raise ValueError(one_line(error)) from error

    @classmethod
    def from_file(cls, file: Path) -> "InceptionFeatures":
        """Read the weights from a file of PyTorch's; no code in it is run.

        Raises:
            UserError: There is no such file, other weights are in it, or torch-fidelity is not installed.
        """
        try:
            return cls(torch.load(file, map_location="cpu", weights_only=True))
        except FileNotFoundError:
            raise UserError(
                f"{file}: no such file; FID and KID need FID's own Inception v3: pt_inception-2015-12-05-6726825d.pth "
                "of github.com/mseitzer/pytorch-fid/releases"
            ) from None
        except ValueError as error:
            raise UserError(f"{file}: not FID's own Inception v3: {error}") from error
        except (OSError, RuntimeError, EOFError, TypeError, AttributeError, UnpicklingError) as error:
            raise UserError(f"{file}: not readable as weights ({type(error).__name__})") from error

    @torch.no_grad()
    def forward(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> Float[Tensor, "b features"]:
        """Return the features of images in [-1, 1]; their sizes may differ, each is resized without a crop."""
        features = torch.empty(len(images), FEATURES, device=images[0].device)
        for shape in {image.shape for image in images}:
            rows = [row for row, image in enumerate(images) if image.shape == shape]
            values = torch.stack([images[row] for row in rows]).clamp(-1, 1)
            (features[rows],) = self.network(((values + 1) * 127.5).round().to(torch.uint8))
        return features
