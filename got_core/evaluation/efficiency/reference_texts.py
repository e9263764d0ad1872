"""What the pipelines make of their text encoders' outputs, and how they hand it to their denoisers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

PENULTIMATE = -2
"""The hidden states that SDXL and SD 3 take from CLIP."""

TIME_IDS = 6
"""Numbers that tell SDXL the size and the cut of an image."""


class Embeddings(NamedTuple):
    """A prompt as a denoiser takes it: a sequence, and one vector where it takes that too."""

    sequence: Float[Tensor, "b l d"]
    pooled: Float[Tensor, "b p"] | None = None


def one_text(outputs: Sequence[Any]) -> Embeddings:
    """SD 1.5, InstructPix2Pix: CLIP's last hidden states."""
    return Embeddings(outputs[0].last_hidden_state)


def two_texts(outputs: Sequence[Any]) -> Embeddings:
    """SDXL: hidden states of both encoders side by side, and the second's projected vector."""
    states = torch.cat([_penultimate(output) for output in outputs], dim=-1)
    return Embeddings(states, outputs[1].text_embeds)


def three_texts(outputs: Sequence[Any]) -> Embeddings:
    """SD 3: both CLIPs side by side, filled up to T5's width and followed by T5; and both projected vectors."""
    first, second, third = outputs
    states = torch.cat([_penultimate(first), _penultimate(second)], dim=-1)
    long = third.last_hidden_state
    states = functional.pad(states, (0, long.shape[-1] - states.shape[-1]))
    return Embeddings(torch.cat([states, long], dim=1), torch.cat([first.text_embeds, second.text_embeds], dim=-1))


def unet_arguments(embeddings: Embeddings) -> dict[str, Any]:
    """Of a UNet that takes a sequence alone."""
    return {"encoder_hidden_states": embeddings.sequence}


def sdxl_arguments(embeddings: Embeddings) -> dict[str, Any]:
    """Of SDXL's UNet."""
    sizes = embeddings.sequence.new_zeros(len(embeddings.sequence), TIME_IDS)
    added = {"text_embeds": embeddings.pooled, "time_ids": sizes}
    return {"encoder_hidden_states": embeddings.sequence, "added_cond_kwargs": added}


def sd3_arguments(embeddings: Embeddings) -> dict[str, Any]:
    """Of SD 3's transformer."""
    return {"encoder_hidden_states": embeddings.sequence, "pooled_projections": embeddings.pooled}


def _penultimate(output: Any) -> Tensor:
    states: Tensor = output.hidden_states[PENULTIMATE]
    return states
