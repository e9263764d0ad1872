"""Samples to Qwen2.5-VL's token sequences and image patches, in the loader's workers; holds no weights."""

import re
from collections.abc import Sequence
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor

from got_core.types import Batch, Sample
from reasoners.qwen2_5_vl_images import PatchLayout
from reasoners.tokenizer import IMAGE_PLACE, VISION_END, VISION_START, Vocabulary

CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{turn}<|im_end|>\n<|im_start|>assistant\n"
)
EARLIER = "Earlier: {request}\n"
"""How a request of an earlier turn stands where a template has `{earlier}`."""

PLACES = re.compile(r"\{(prompt|earlier)\}")
"""What is filled in for each sample; splitting by it leaves the names at the odd places."""

GENERATION_TEMPLATE = CHAT.replace(
    "{turn}", "Follow the caption to generate an image through a chain of thought process: {prompt}"
)
EDITING_TEMPLATE = CHAT.replace(
    "{turn}",
    "{image}{earlier}Follow the instruction to edit the given image through a chain of thought process: {prompt}",
)


class Qwen2_5_VLProcessor:
    """Makes batches for `Qwen2_5_VLReasoner`. A sequence is prompt, chain, `<|im_gen_start|>`, N image tokens, padding.

    What Qwen would read after the image tokens (`<|im_gen_end|>` and on) is left out: under causal attention nothing
    that is trained depends on it. Sequences are padded on the right, so causal attention needs no mask.

    `Batch.inputs` holds:
        input_ids: (b, l).
        position_ids: (b, 3, l).
        length, prompt_length: (b), tokens in all, and before the chain.
        chain_mask: (b, l), True at the tokens that are learned: the chain and the `<|im_gen_start|>` that ends it.
        summary_mask: (b, l), True at the N image tokens of each row.
        pixel_values, image_grid_thw: Patches of the source images in batch order. Without any image they hold one blank
            visual token that no sequence reads, so the vision tower runs on every rank at every step.

    Args:
        vocabulary: Tokenizer and ids.
        layout: How the vision tower cuts up images.
        generation_template, editing_template: All text before the chain; `{prompt}` and, for editing, `{image}` stand
            for what is filled in. Where the latter also has `{earlier}`, the requests of earlier turns stand there.
        max_chain_tokens: Longer chains are cut to so many tokens; the image tokens still follow.

    Raises:
        ValueError: A template without its places.
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
        image = VISION_START + IMAGE_PLACE * layout.side**2 + VISION_END
        self._templates = {False: generation_template, True: editing_template.replace("{image}", image)}

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """A batch with sequences and patches; samples with and without a source image may be mixed."""
        batch = Batch.collate(samples)
        asked = zip(batch.prompts, batch.has_source, batch.earlier, strict=True)
        prompts = [self.prompt_ids(text, bool(edit), earlier) for text, edit, earlier in asked]
        inputs = self.sequences(prompts, [self.chain_ids(chain) for chain in batch.chains])
        images = int(batch.has_source.sum())
        patches = self.layout.patches(batch.source[batch.has_source]) if images else self.layout.blank()
        grids = self.layout.grids(images) if images else self.layout.blank_grid()
        return replace(batch, inputs={**inputs, "pixel_values": patches, "image_grid_thw": grids})

    def prompt_ids(self, prompt: str, edit: bool, earlier: Sequence[str] = ()) -> list[int]:
        """Everything before the chain; control tokens in the user's words count as blanks."""
        turns = "".join(EARLIER.replace("{request}", request) for request in earlier)
        filled = {"prompt": prompt, "earlier": turns}
        parts = PLACES.split(self._templates[edit])
        words = (self.vocabulary.without_controls(filled[part]) if n % 2 else part for n, part in enumerate(parts))
        return self.vocabulary.encode("".join(words))

    def chain_ids(self, chain: str) -> list[int]:
        """A chain's tokens, cut at `max_chain_tokens`."""
        return self.vocabulary.encode(self.vocabulary.without_controls(chain))[: self.max_chain_tokens]

    def sequences(self, prompts: Sequence[list[int]], chains: Sequence[list[int]]) -> dict[str, Tensor]:
        """The token tensors of `Batch.inputs` for prompts and chains already in ids."""
        vocabulary, layout = self.vocabulary, self.layout
        tail = [vocabulary.start, *vocabulary.image_tokens]
        rows = [[*prompt, *chain, *tail] for prompt, chain in zip(prompts, chains, strict=True)]
        length = max(len(row) for row in rows)
        starts = [row.index(vocabulary.image_place) if vocabulary.image_place in row else None for row in rows]
        lengths, prompt_length = (torch.tensor([len(ids) for ids in parts]) for parts in (rows, prompts))
        summary_stop = rearrange(lengths, "b -> b 1")
        summary_start = summary_stop - len(vocabulary.image_tokens)
        place = torch.arange(length)
        return {
            "input_ids": torch.tensor([row + [vocabulary.padding] * (length - len(row)) for row in rows]),
            "position_ids": torch.stack([layout.positions(length, start) for start in starts]),
            "length": lengths,
            "prompt_length": prompt_length,
            "chain_mask": (place >= rearrange(prompt_length, "b -> b 1")) & (place < summary_start),
            "summary_mask": (place >= summary_start) & (place < summary_stop),
        }
