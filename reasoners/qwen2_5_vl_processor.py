"""Makes Qwen2.5-VL's token sequences and image patches from samples, in the loader's workers; without weights."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from got_core.chain.parser import parse
from got_core.types import Batch, Sample, resized
from reasoners.tokenizer import IMAGE_PAD, VISION_END, VISION_START, Vocabulary

FEATURES = "vision_features"
"""The name in `Sample.precomputed` and `Batch.inputs` of what the vision tower makes of a source image."""

MOST_TOKENS_A_SIDE = 256
"""Visual tokens along a side of an image: all of a long context."""


@dataclass(frozen=True)
class PatchLayout:
    """How an image is cut into patches for the vision tower.

    Attributes:
        image_size: Side of the square that source images are resized to, in pixels.
        patch_size: Side of a patch in pixels.
        merge_size: Patches, along each side, that become one visual token.
        temporal_patch_size: Frames of a patch; a still image is repeated.
        coordinates: The last frame holds the column and row of each pixel, from -1 to 1, instead of the image again.
            The tower's rotary positions are relative, so it must learn absolute positions from the edges, which takes
            more training than a small tower gets.

    Raises:
        ValueError: The side is not a multiple of a visual token's, or there is no second frame for coordinates.
    """

    image_size: int
    patch_size: int
    merge_size: int
    temporal_patch_size: int
    coordinates: bool = False

    def __post_init__(self) -> None:
        if self.image_size < 1 or self.side > MOST_TOKENS_A_SIDE:
            raise ValueError(f"image_size must be 1 to {MOST_TOKENS_A_SIDE} visual tokens, not {self.image_size} px")
        if self.image_size % (self.patch_size * self.merge_size):
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size} "
                f"times spatial_merge_size {self.merge_size}"
            )
        if self.coordinates and self.temporal_patch_size < 2:
            raise ValueError(f"coordinates need a second frame, but temporal_patch_size is {self.temporal_patch_size}")

    @property
    def side(self) -> int:
        """Return the number of visual tokens along each side of an image."""
        return self.image_size // (self.patch_size * self.merge_size)

    def patches(self, sources: Sequence[Float[Tensor, "3 _h _w"]]) -> Float[Tensor, "p c"]:
        """Resize images in [-1, 1], of any sizes, and normalise and cut them as `Qwen2VLImageProcessor` does.

        Each image gives (side * merge_size)^2 rows.
        """
        images = torch.stack([resized(source, (self.image_size, self.image_size)) for source in sources])
        mean = rearrange(torch.tensor(OPENAI_CLIP_MEAN), "c -> c 1 1")
        std = rearrange(torch.tensor(OPENAI_CLIP_STD), "c -> c 1 1")
        frames = repeat(((images + 1) / 2 - mean) / std, "i c h w -> t i c h w", t=self.temporal_patch_size).clone()
        if self.coordinates:
            pixels = torch.linspace(-1, 1, self.image_size)
            frames[-1] = torch.stack([*torch.meshgrid(pixels, pixels, indexing="xy"), torch.zeros_like(images[0, 0])])
        return rearrange(
            frames,
            "t i c (gh mh ph) (gw mw pw) -> (i gh gw mh mw) (c t ph pw)",
            mh=self.merge_size,
            mw=self.merge_size,
            ph=self.patch_size,
            pw=self.patch_size,
        )

    def blank(self) -> Float[Tensor, "p c"]:
        """Return the patches of one visual token without content."""
        channels = len(OPENAI_CLIP_MEAN) * self.temporal_patch_size * self.patch_size**2
        return torch.zeros(self.merge_size**2, channels)

    def blank_grid(self) -> Int[Tensor, "1 3"]:
        """Return the grid of `blank`."""
        return torch.tensor([[1, self.merge_size, self.merge_size]])

    def grids(self, number: int) -> Int[Tensor, "i 3"]:
        """Return (frames, rows, columns) of patches for a number of images."""
        rows = self.side * self.merge_size
        return torch.tensor([[1, rows, rows]]).expand(number, 3)

    def positions(self, length: int, image_starts: Sequence[int]) -> Int[Tensor, "3 l"]:
        """Return Qwen's three-axis rotary positions of a sequence, with images from the tokens `image_starts` on.

        Text counts up on all three axes; an image's tokens have one time step and their row and column; the text after
        it continues from the largest of these.
        """
        positions = repeat(torch.arange(length), "l -> three l", three=3).clone()
        cells = torch.arange(self.side)
        for start in image_starts:
            stop, time = start + self.side**2, int(positions[0, start])
            positions[0, start:stop] = time
            positions[1, start:stop] = time + repeat(cells, "row -> (row column)", column=self.side)
            positions[2, start:stop] = time + repeat(cells, "column -> (row column)", row=self.side)
            positions[:, stop:] -= self.side**2 - self.side
        return positions


CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{turn}<|im_end|>\n<|im_start|>assistant\n"
)
EARLIER = "Earlier: {request}\n"
"""A request of an earlier turn, as a template's `{earlier}` is filled in."""

FIELDS = re.compile(r"\{(prompt|earlier)\}")
"""What is filled in for each sample; splitting by it leaves the names at odd indices."""

GENERATION_TEMPLATE = CHAT.replace(
    "{turn}", "Follow the caption to generate an image through a chain of thought process: {prompt}"
)
EDITING_TEMPLATE = CHAT.replace(
    "{turn}",
    "{image}{earlier}Follow the instruction to edit the given image through a chain of thought process: {prompt}",
)


class Qwen2_5_VLProcessor:
    """Makes batches for `Qwen2_5_VLReasoner`. A sequence is prompt, chain, `<|im_gen_start|>`, N image tokens, padding.

    What Qwen would read after the image tokens (`<|im_gen_end|>` and so on) is left out: under causal attention nothing
    that is trained depends on it. Where a sample has steps, these come before its chain, as in the released system's
    loop: chain, `<|im_gen_start|>`, image tokens, `<|im_gen_end|>` and the generated image of each. Sequences are
    padded on the right, so causal attention needs no mask.

    `Batch.inputs` holds:
        input_ids: (b, l).
        position_ids: (b, 3, l).
        length, prompt_length: (b), tokens in all, and before the chain.
        chain_mask: (b, l), True at the tokens that are learned: the chain and the `<|im_gen_start|>` that ends it.
        summary_mask: (b, l), True at the N image tokens of each row.
        pixel_values, image_grid_thw: Patches of the source images in batch order. Without any image they hold one blank
            visual token that no sequence reads, so the vision tower runs on every rank at every step.
        vision_features: In their stead, what the tower has made of the images of precomputed samples, in batch order.

    Args:
        vocabulary: Tokenizer and ids.
        layout: How the vision tower cuts up images.
        generation_template, editing_template: All text before the chain; `{prompt}` and, for editing, `{image}` are
            filled in, and `{earlier}`, if the latter has it, by the requests of earlier turns.
        max_chain_tokens: Longer chains are cut (`fitting`), in `Batch.chains` too; the image tokens still follow.

    Raises:
        ValueError: A template lacks a field.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        layout: PatchLayout,
        generation_template: str = GENERATION_TEMPLATE,
        editing_template: str = EDITING_TEMPLATE,
        max_chain_tokens: int = 1024,
    ) -> None:
        for name, template, images in (
            ("generation_template", generation_template, 0),
            ("editing_template", editing_template, 1),
        ):
            if template.count("{prompt}") != 1 or template.count("{image}") != images:
                raise ValueError(f"{name} must hold {{prompt}} once and {{image}} {images} times: {template!r}")
        self.vocabulary = vocabulary
        self.layout = layout
        self.max_chain_tokens = max_chain_tokens
        self._image = VISION_START + IMAGE_PAD * layout.side**2 + VISION_END
        self._templates = {False: generation_template, True: editing_template.replace("{image}", self._image)}

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Make a batch with sequences and patches; samples with and without a source image may be mixed."""
        features = [sample.precomputed[FEATURES] for sample in samples if FEATURES in sample.precomputed]
        images = {FEATURES: torch.cat(features)} if features else self._patches(samples)
        batch = Batch.collate([replace(each, precomputed=_without_features(each)) for each in samples])
        prompts = [
            [*self.prompt_ids(sample.prompt, sample.source is not None, sample.earlier), *self.step_ids(sample)]
            for sample in samples
        ]
        return self._filled(replace(batch, inputs=images), prompts)

    def _patches(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        sources = [image for sample in samples for image in (sample.source, *(step.image for step in sample.steps))]
        sources = [image for image in sources if image is not None]
        patches = self.layout.patches(sources) if sources else self.layout.blank()
        grids = self.layout.grids(len(sources)) if sources else self.layout.blank_grid()
        return {"pixel_values": patches, "image_grid_thw": grids}

    def with_chains(self, batch: Batch, chains: Sequence[str]) -> Batch:
        """Return a batch with other chains; it keeps its patches, which are of the sources as they were given."""
        rows = zip(batch.inputs["input_ids"], batch.inputs["prompt_length"].tolist(), strict=True)
        return self._filled(replace(batch, chains=tuple(chains)), [ids[:length].tolist() for ids, length in rows])

    def _filled(self, batch: Batch, prompts: Sequence[list[int]]) -> Batch:
        """Return a batch with the sequences of its chains after these tokens."""
        chains, ids = zip(*map(self.fitting, batch.chains), strict=True)
        inputs = {name: tensor.to(batch.source.device) for name, tensor in self.sequences(prompts, ids).items()}
        return replace(batch, chains=chains, inputs={**batch.inputs, **inputs})

    def step_ids(self, sample: Sample) -> list[int]:
        """Return the tokens of a sample's steps: of each its chain, the image tokens, and its image."""
        vocabulary = self.vocabulary
        ids = []
        for step in sample.steps:
            ids += [*self.chain_ids(step.chain), vocabulary.start, *vocabulary.image_tokens, vocabulary.end]
            ids += vocabulary.encode(self._image)
        return ids

    def prompt_ids(self, prompt: str, edit: bool, earlier: Sequence[str] = ()) -> list[int]:
        """Return the tokens before the chain; control tokens in the user's words become blanks."""
        turns = "".join(EARLIER.replace("{request}", request) for request in earlier)
        filled = {"prompt": prompt, "earlier": turns}
        parts = FIELDS.split(self._templates[edit])
        words = (self.vocabulary.without_controls(filled[part]) if n % 2 else part for n, part in enumerate(parts))
        return self.vocabulary.encode("".join(words))

    def chain_ids(self, chain: str) -> list[int]:
        """Return the tokens of a chain of any length."""
        return self.vocabulary.encode(self.vocabulary.without_controls(chain))

    def fitting(self, chain: str) -> tuple[str, list[int]]:
        """Return a chain and its tokens, at most `max_chain_tokens`.

        One that is longer is cut after its last whole region that fits, or between words before its first region.
        """
        ids = self.chain_ids(chain)
        if len(ids) <= self.max_chain_tokens:
            return chain, ids
        regions = parse(chain).locations
        words = [word.end() for word in re.finditer(r"\S+", chain[: regions[0].start] if regions else chain)]
        for ends in ([region.end for region in regions], words):
            fit = bisect_right(ends, self.max_chain_tokens, key=lambda end: len(self.chain_ids(chain[:end])))
            if fit:
                chain = chain[: ends[fit - 1]]
                return chain, self.chain_ids(chain)
        return "", []

    def sequences(self, prompts: Sequence[list[int]], chains: Sequence[list[int]]) -> dict[str, Tensor]:
        """Return the token tensors of `Batch.inputs` for prompts and chains given as ids."""
        vocabulary, layout = self.vocabulary, self.layout
        tail = [vocabulary.start, *vocabulary.image_tokens]
        rows = [[*prompt, *chain, *tail] for prompt, chain in zip(prompts, chains, strict=True)]
        length = max(len(row) for row in rows)
        pad = vocabulary.image_pad
        starts = [[at for at, id_ in enumerate(row) if id_ == pad and row[at - 1] != pad] for row in rows]
        lengths, prompt_length = (torch.tensor([len(ids) for ids in parts]) for parts in (rows, prompts))
        summary_stop = rearrange(lengths, "b -> b 1")
        summary_start = summary_stop - len(vocabulary.image_tokens)
        index = torch.arange(length)
        return {
            "input_ids": torch.tensor([row + [vocabulary.padding] * (length - len(row)) for row in rows]),
            "position_ids": torch.stack([layout.positions(length, images) for images in starts]),
            "length": lengths,
            "prompt_length": prompt_length,
            "chain_mask": (index >= rearrange(prompt_length, "b -> b 1")) & (index < summary_start),
            "summary_mask": (index >= summary_start) & (index < summary_stop),
        }


def _without_features(sample: Sample) -> dict[str, Tensor]:
    """What a batch stacks: features of images are as many as there are images."""
    return {name: tensor for name, tensor in sample.precomputed.items() if name != FEATURES}
