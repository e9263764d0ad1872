"""The contract of a guidance encoder."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from got_core.interfaces import GuidanceEncoder, LatentCodec
from got_core.testing.common import (
    check_attributes,
    check_blocks,
    check_gradients,
    check_state_dict,
    normal,
    perturbed,
    present,
    require,
    same,
)
from got_core.types import Batch, Guidance, Reasoning, Sample

BOX = "<|object_ref_start|>a red dog<|object_ref_end|><|box_start|>(0,0),(500,500)<|box_end|> (red)"
OTHER_BOX = "<|object_ref_start|>a blue cat<|object_ref_end|><|box_start|>(250,500),(999,999)<|box_end|> (blue)"
CHAINS = (f"{BOX} and {OTHER_BOX}", "No boxes here.", BOX)
EDIT = 1
"""Index of the sample that is an edit."""
MASKED = {"semantic": ("tokens", "pooled"), "spatial": ("spatial",), "reference": ("reference",)}
"""The fields that each mask of `drop` may change; the pooled vector may also stay."""


def check_guidance_encoder(encoder: GuidanceEncoder, codec: LatentCodec, size: tuple[int, int] | None = None) -> None:
    """Check a `GuidanceEncoder` on the CPU in float32, with text-to-image and an edit in one batch.

    Args:
        encoder: Any; a copy is used.
        codec: The codec it is built for.
        size: (height, width) of the images in pixels; None for 8 by 12 latent pixels.

    Raises:
        AssertionError: What does not hold: declared widths and fields, the same result twice in eval mode, samples that
            do not depend on each other, use of states, boxes and source image, nulls that depend on nothing, change
            only what their mask names and are the same when applied twice, gradients to the states and every trainable
            parameter, `blocks()`, state dict.
    """
    check_attributes(encoder, ("state_dim", "token_dim"), ("pooled_dim", "spatial_channels", "reference_channels"))
    check_blocks(encoder)
    height, width = size or (8 * codec.downsample, 12 * codec.downsample)
    inputs = _Inputs(encoder, codec, (height, width))
    model = perturbed(encoder, seed=0)
    with torch.no_grad():
        guidance = inputs.encode(model)
        _check_shapes(model, guidance, height // codec.downsample, width // codec.downsample)
        _check_rows(model, inputs, guidance)
        _check_uses(model, inputs, guidance)
        _check_nulls(model, guidance, inputs.encode(model, seed=1, chains=CHAINS[::-1]))
    states = inputs.states(0).requires_grad_()
    made = inputs.encode(model, states=states)
    everything = torch.ones(len(CHAINS), dtype=torch.bool)
    nulls = model.drop(made, everything, everything, everything)
    outputs = [value for value in (*present(made).values(), *present(nulls).values()) if value.requires_grad]
    check_gradients(model, outputs)
    require(
        states.grad is not None and bool(states.grad.any()), f"no gradient flows through {_name(model)} to the states"
    )
    check_state_dict(encoder, lambda part: list(present(inputs.encode(part)).values()))


class _Inputs:
    """Three samples, one of them an edit, with states and source images made from seeds."""

    def __init__(self, encoder: GuidanceEncoder, codec: LatentCodec, size: tuple[int, int]):
        self.width, self.codec, self.size = encoder.state_dim, codec, size

    def states(self, seed: int) -> Float[Tensor, "b n d"]:
        """Return a reasoner's states."""
        return normal(Generator().manual_seed(seed), len(CHAINS), 4, self.width)

    def encode(
        self,
        encoder: GuidanceEncoder,
        seed: int = 0,
        chains: Sequence[str] = CHAINS,
        states: Tensor | None = None,
        only: int | None = None,
    ) -> Guidance:
        """Return the encoder's guidance, for the batch of one sample if `only` is given."""
        source = normal(Generator().manual_seed(seed), 3, *self.size).clamp(-1, 1)
        samples = [
            Sample("", chain, self.size, source=source if index == EDIT else None) for index, chain in enumerate(chains)
        ]
        states = self.states(seed) if states is None else states
        rows = slice(None) if only is None else slice(only, only + 1)
        reasoning = Reasoning(states=states[rows], chains=tuple(chains[rows]))
        return encoder(reasoning, Batch.collate(samples[rows]), self.codec)


def _name(encoder: GuidanceEncoder) -> str:
    return type(encoder).__name__


def _check_shapes(encoder: GuidanceEncoder, guidance: Guidance, height: int, width: int) -> None:
    expected = {
        "tokens": (encoder.token_dim,),
        "pooled": None if encoder.pooled_dim is None else (encoder.pooled_dim,),
        "spatial": None if encoder.spatial_channels is None else (encoder.spatial_channels, height, width),
        "reference": None if encoder.reference_channels is None else (encoder.reference_channels, height, width),
    }
    made = present(guidance)
    for field, shape in expected.items():
        actual = None if field not in made else tuple(made[field].shape[2 if field == "tokens" else 1 :])
        message = f"{_name(encoder)} declares {field} guidance of shape {shape} (None: none), but makes {actual}"
        require(actual == shape, message)
        require(shape is None or len(made[field]) == len(CHAINS), f"{_name(encoder)} loses samples in {field} guidance")


def _check_rows(encoder: GuidanceEncoder, inputs: _Inputs, guidance: Guidance) -> None:
    for field, value in present(inputs.encode(encoder)).items():
        message = f"{_name(encoder)} in eval mode gives two results for {field} guidance from the same inputs"
        require(same(value, present(guidance)[field]), message)
    for index in range(len(CHAINS)):
        for field, value in present(inputs.encode(encoder, only=index)).items():
            message = f"{_name(encoder)} makes other {field} guidance for a sample when others share its batch"
            require(same(value, present(guidance)[field][index : index + 1]), message)


def _check_uses(encoder: GuidanceEncoder, inputs: _Inputs, guidance: Guidance) -> None:
    """Check that states, boxes and source image each change the guidance that is made from them."""
    moved = present(inputs.encode(encoder, chains=(OTHER_BOX, *CHAINS[1:]), states=inputs.states(0)))
    other = present(inputs.encode(encoder, seed=1))
    for field, before in present(guidance).items():
        after, what, index = {
            "spatial": (moved, "the boxes of the chain", 0),
            "reference": (other, "the source image", EDIT),
        }.get(field, (other, "the reasoner's states", 0))
        require(not same(before[index], after[field][index]), f"{_name(encoder)} makes {field} guidance without {what}")


def _check_nulls(encoder: GuidanceEncoder, guidance: Guidance, other: Guidance) -> None:
    name, count = _name(encoder), len(CHAINS)
    none, every = torch.zeros(count, dtype=torch.bool), torch.ones(count, dtype=torch.bool)
    first = torch.arange(count) == 0
    before = {field: value.clone() for field, value in present(guidance).items()}
    for mask, may_change in MASKED.items():
        dropped = present(_drop(encoder, guidance, mask, first, none))
        again = present(_drop(encoder, _drop(encoder, guidance, mask, every, none), mask, every, none))
        null = present(_drop(encoder, guidance, mask, every, none))
        unrelated = present(_drop(encoder, other, mask, every, none))
        for field, value in before.items():
            require(
                torch.equal(value, present(guidance)[field]), f"{name}.drop changes the guidance it is given in place"
            )
            untouched = dropped[field] if field not in may_change else dropped[field][1:]
            expected = value if field not in may_change else value[1:]
            message = f"{name}.drop({mask}=...) changes {field} guidance that its mask does not name"
            require(same(untouched, expected), message)
            require(same(null[field], again[field]), f"{name}.drop({mask}=...) applied twice changes {field} once more")
            if field in may_change and field != "pooled":
                message = f"{name}.drop({mask}=...) does not put a null in place of {field} guidance"
                require(same(null[field], unrelated[field]) and not same(null[field], value), message)


def _drop(encoder: GuidanceEncoder, guidance: Guidance, mask: str, chosen: Tensor, none: Tensor) -> Guidance:
    masks = {name: chosen if name == mask else none for name in MASKED}
    return encoder.drop(guidance, **masks)
