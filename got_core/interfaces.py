"""The interfaces of components. Read this first: everything else implements or composes these five.

A recipe names classes by path; the type annotation where a class is used is the only registry. All shapes use
b batch, l or n tokens, d width, c channels, h w latent size, H W image size. Times `t` are in scheduler units, 0
(clean) to 1000 (noise), for every objective.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from safetensors.torch import save_model
from torch import Generator, Tensor, device, nn

from got_core.types import Batch, Guidance, Reasoning, Sample


@runtime_checkable
class Processor(Protocol):
    """Makes samples ready for a reasoner, in the loader's workers: picklable and without weights."""

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Stack the samples and add the reasoner's own tensors."""
        ...


@runtime_checkable
class Scheduler(Protocol):
    """The part of a diffusers scheduler that sampling uses."""

    timesteps: Tensor

    def set_timesteps(self, num_inference_steps: int, device: device) -> None:
        """Set the times of sampling."""
        ...

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool) -> tuple[Tensor, ...]:
        """Step from one time to the next; the new sample comes first."""
        ...


Generators = Generator | Sequence[Generator]
"""Random number generators: one for a whole batch, or one for each sample, which makes it independent of its batch."""

ChainListener = Callable[[tuple[str, ...]], None]
"""Is called with the chains of a batch while they are written, one text for each sample."""

Precomputed = Mapping[str, Sequence[Tensor]]
"""Tensors by name, one for each sample of a batch."""


class Component(nn.Module):
    """A module that names its repeated blocks once, for sharding, activation checkpointing and compilation."""

    def blocks(self) -> Iterable[nn.Module]:
        """Return the repeated blocks, in order; empty if the module is too small for sharding."""
        return ()

    def precomputed_by(self) -> dict[str, Any]:
        """Return what precomputed tensors depend on (settings, fingerprints of weights), by readable names.

        A cache that was made with other values is refused.
        """
        return {}

    def merge_adapters(self) -> None:
        """Merge adapters, if there are any, into the weights: the outputs stay as they are, and training ends."""

    def export(self, folder: Path) -> None:
        """Write the weights into a new folder for use elsewhere, as safetensors.

        A model of transformers or diffusers is written in that library's layout with adapters merged, other modules
        under the names of this project. Nothing is written if there are no weights.
        """
        if any(True for _ in self.parameters()):
            folder.mkdir(parents=True)
            save_model(self, str(folder / "model.safetensors"))

    def standalone(self, folder: Path) -> dict[str, Any]:
        """Return arguments that rebuild this component without other files, for `GoTPipeline.save_pretrained`.

        Args:
            folder: The folder of the files that the arguments name; created only if there are any.

        Returns:
            Values that replace those of its construction; the others stay. A file or folder is a `Path` in `folder`.
        """
        return {}


class Reasoner(Component, ABC):
    """Writes a chain of thought and sums it up in N embeddings (GoT, section 4.1).

    Attributes:
        dim: Width d of the states.
        num_tokens: Number N of states.
        processor: Makes batches for this reasoner.
        reads_earlier: Whether edits use the requests of earlier turns (`Batch.earlier`).
        question_processor: Makes batches of plain questions, with or without an image, and answers instead of chains,
            for `likelihood`; None for a reasoner that answers no questions.
    """

    dim: int
    num_tokens: int
    processor: Processor
    reads_earlier: bool = False

    @property
    def question_processor(self) -> Processor | None:
        """None, unless a reasoner answers questions."""
        return None

    def likelihood(self, batch: Batch) -> tuple[Float[Tensor, " b"], Int[Tensor, " b"]]:
        """Compute the log-likelihood in nats of each chain, without its end token, and its number of tokens.

        Raises:
            NotImplementedError: The reasoner gives no likelihoods.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how likely a text is")

    def precompute(self, batch: Batch) -> Precomputed:
        """Compute what of the forward pass depends on no trained weight, for a cache; nothing unless a class says more.

        Its processor must then take it from `Sample.precomputed`.
        """
        return {}

    def continues(self, batch: Batch, chains: Sequence[str]) -> list[bool]:
        """Say of each sample whether, after the image of its chain, another one follows for the same request.

        Its `Sample.steps` then have the former. Never, unless a reasoner was trained to.
        """
        return [False] * len(batch)

    @abstractmethod
    def forward(self, batch: Batch) -> Reasoning:
        """Compute chain loss and states in one pass, teacher-forced on `batch.chains`."""

    @abstractmethod
    def generate(
        self,
        batch: Batch,
        *,
        temperature: float = 0.0,
        max_new_tokens: int = 1024,
        generator: Generators | None = None,
        listener: ChainListener | None = None,
    ) -> Reasoning:
        """Write the chains (greedily at temperature 0) and read the states from the same cache.

        The listener, if given, is called with the chains so far after each token.
        """

    @abstractmethod
    def summarize(self, batch: Batch, chains: Sequence[str]) -> Reasoning:
        """Compute the states after given chains, one for each sample, such as chains edited by a user."""


class LatentCodec(Component, ABC):
    """Converts images to latents and back; frozen. Scale and shift of latents are used nowhere else.

    Attributes:
        latent_channels: Channels c of a latent.
        downsample: Image pixels per latent pixel, along each side.
    """

    latent_channels: int
    downsample: int

    @abstractmethod
    def encode(self, images: Float[Tensor, "b 3 H W"], scaled: bool = True) -> Float[Tensor, "b c h w"]:
        """Encode images to latents, to the mode if the codec is stochastic; `scaled=False` omits scale and shift."""

    @abstractmethod
    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Decode scaled latents to images in [-1, 1]."""

    def enable_tiling(self) -> None:
        """Encode and decode large images in overlapping tiles, so that memory does not grow with their size.

        Raises:
            ValueError: This codec cannot.
        """
        raise ValueError(f"{type(self).__name__} has no tiles")

    def enable_slicing(self) -> None:
        """Encode and decode the images of a batch one by one (ValueError: this codec cannot)."""
        raise ValueError(f"{type(self).__name__} does not divide batches")


class GuidanceEncoder(Component, ABC):
    """Turns reasoning, boxes and reference image into guidance (GoT, section 4.2).

    Attributes:
        state_dim: Width of the reasoner's states it takes.
        token_dim: Width of `Guidance.tokens` it makes.
        pooled_dim: Width of `Guidance.pooled`, or None if it makes none.
        spatial_channels: Channels of `Guidance.spatial`, or None if it makes none.
        reference_channels: Channels of `Guidance.reference`, or None if it makes none.
    """

    state_dim: int
    token_dim: int
    pooled_dim: int | None
    spatial_channels: int | None
    reference_channels: int | None

    @abstractmethod
    def forward(self, reasoning: Reasoning, batch: Batch, codec: LatentCodec) -> Guidance:
        """Make guidance for `batch.size`; boxes are read from `reasoning.chains`."""

    def precompute(self, batch: Batch, codec: LatentCodec) -> Precomputed:
        """Compute what of the guidance depends on no trained weight, for a cache; nothing unless a class says more.

        Its `forward` must then take it from `batch.precomputed`.
        """
        return {}

    @abstractmethod
    def drop(
        self,
        guidance: Guidance,
        semantic: Bool[Tensor, " b"],
        spatial: Bool[Tensor, " b"],
        reference: Bool[Tensor, " b"],
    ) -> Guidance:
        """Replace parts by their nulls where the mask is True. Only the encoder knows the nulls."""


class DenoisingBackbone(Component, ABC):
    """Predicts noise or velocity under guidance.

    Attributes:
        latent_channels: Channels c of the latents.
        token_dim, pooled_dim, spatial_channels, reference_channels: The guidance it takes, as in `GuidanceEncoder`;
            None for a field it does not use.
        latent_multiple: Both sides of a latent must be multiples of it.
    """

    latent_channels: int
    token_dim: int | None
    pooled_dim: int | None
    spatial_channels: int | None
    reference_channels: int | None
    latent_multiple: int = 1

    @abstractmethod
    def forward(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], guidance: Guidance
    ) -> Float[Tensor, "b c h w"]:
        """Predict what the objective trains, for noisy latents at times t in 0 to 1000.

        Raises:
            ValueError: The guidance lacks a declared field (`check_guidance`).
        """

    def check_guidance(self, guidance: Guidance) -> None:
        """Check that the guidance has each field that the backbone takes, with its declared width.

        Raises:
            ValueError: Names the backbone, the field and both widths.
        """
        for field, wanted, axis in (
            ("tokens", self.token_dim, -1),
            ("pooled", self.pooled_dim, -1),
            ("spatial", self.spatial_channels, 1),
            ("reference", self.reference_channels, 1),
        ):
            value = getattr(guidance, field)
            if wanted is not None and (value is None or value.shape[axis] != wanted):
                found = "none" if value is None else f"width {value.shape[axis]}"
                raise ValueError(f"{type(self).__name__} takes {field} guidance of width {wanted}, but got {found}")


Predict = Callable[[Float[Tensor, "b c h w"], Float[Tensor, " b"]], Float[Tensor, "b c h w"]]
"""A backbone with its guidance bound: (x_t, t) -> prediction."""


class NoiseObjective(ABC):
    """Defines how noise is added, what is predicted, and how noise is removed. Has no weights."""

    @abstractmethod
    def sample_noise(
        self, x0: Float[Tensor, "b c h w"], generator: Generator | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Sample noise for training, of the shape and device of x0."""

    @abstractmethod
    def sample_t(self, batch_size: int, device: device, generator: Generator | None = None) -> Float[Tensor, " b"]:
        """Sample training times in 0 to 1000."""

    @abstractmethod
    def corrupt(
        self, x0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Return x_t and the target of the backbone's prediction."""

    @abstractmethod
    def loss(
        self, predict: Predict, x0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Compute the denoising loss of each sample."""

    @abstractmethod
    def scheduler(self) -> Scheduler:
        """Return a new diffusers scheduler for models of this objective."""


def check_widths(
    reasoner: Reasoner, guidance: GuidanceEncoder, backbone: DenoisingBackbone, codec: LatentCodec
) -> None:
    """Check that the widths that components declare fit each other.

    Raises:
        ValueError: The first pair that does not fit; names both sides.
    """
    names = {part: type(module).__name__ for part, module in
             {"reasoner": reasoner, "guidance": guidance, "backbone": backbone, "codec": codec}.items()}  # fmt: skip
    if reasoner.dim != guidance.state_dim:
        raise ValueError(
            f"{names['reasoner']} makes states of width {reasoner.dim}, {names['guidance']} takes {guidance.state_dim}"
        )
    if codec.latent_channels != backbone.latent_channels:
        raise ValueError(
            f"{names['codec']} makes latents of {codec.latent_channels} channels, "
            f"{names['backbone']} takes {backbone.latent_channels}"
        )
    for field, what in {
        "token_dim": "tokens of width",
        "pooled_dim": "a pooled vector of width",
        "spatial_channels": "spatial latents of channels",
        "reference_channels": "reference latents of channels",
    }.items():
        made, taken = getattr(guidance, field), getattr(backbone, field)
        unread = field == "token_dim" and taken is None
        if made != taken and not unread:
            raise ValueError(
                f"{names['guidance']} makes {what} {made or 'none'}, {names['backbone']} takes {taken or 'none'}"
            )
