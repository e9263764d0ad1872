"""Qwen2.5-VL as a reasoner: chain of thought and semantic summary (GoT, section 4.1)."""

import hashlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional
from transformers import (
    DynamicCache,
    PreTrainedTokenizerFast,
    Qwen2_5_VLForConditionalGeneration,
    RepetitionPenaltyLogitsProcessor,
)

from got_core.interfaces import ChainListener, Generators, Precomputed, Reasoner
from got_core.paths import locate
from got_core.types import Batch, Reasoning
from got_core.weights.loading import build, fingerprint, load_whole, mark_changed
from reasoners import qwen2_5_vl_network as net
from reasoners.qwen2_5_vl_processor import (
    CHAT,
    EDITING_TEMPLATE,
    FEATURES,
    GENERATION_TEMPLATE,
    PatchLayout,
    Qwen2_5_VLProcessor,
)
from reasoners.tokenizer import Vocabulary, copy_files, model_file, read_tokenizer


def spread(states: Float[Tensor, "b l d"], chosen: Bool[Tensor, "b l"], number: int) -> Float[Tensor, "b n d"]:
    """Resample the selected states of each row evenly to `number` states, in order.

    State i of n is the selected state i * k // n of the row's k: each at least once if k is at most n.

    Args:
        states: Of whole sequences.
        chosen: Mask of the selected states, at least one in each row.
        number: Number n of states.
    """
    counts = rearrange(chosen.sum(dim=1), "b -> b 1")
    chosen_first = (~chosen).to(torch.uint8).argsort(dim=1, stable=True)
    index = chosen_first.gather(1, torch.arange(number, device=states.device) * counts // number)
    return states.gather(1, repeat(index, "b n -> b n d", d=states.shape[-1]))


def choose(logits: Float[Tensor, "b v"], temperature: float, generator: Generators | None) -> Int[Tensor, " b"]:
    """Return a token for each row: the most likely at temperature 0, else a sampled one."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = (logits / temperature).softmax(dim=-1)
    if generator is None or isinstance(generator, Generator):
        return _sampled(probabilities, generator)
    rows = zip(probabilities.split(1), generator, strict=True)
    return torch.cat([_sampled(row, own) for row, own in rows])


def _sampled(probabilities: Float[Tensor, "b v"], generator: Generator | None) -> Int[Tensor, " b"]:
    device = probabilities.device if generator is None else generator.device
    tokens = torch.multinomial(probabilities.to(device), 1, generator=generator)
    return rearrange(tokens.to(probabilities.device), "b 1 -> b")


def without_padding(written: Sequence[Int[Tensor, " b"]]) -> list[list[int]]:
    """Return the tokens of each row, from those written at each step, which are -1 after a row's end."""
    return [[token for token in row if token >= 0] for row in torch.stack(list(written), dim=1).tolist()]


def axes(positions: Int[Tensor, "b l"]) -> Int[Tensor, "b 3 l"]:
    """Return the rotary positions of text, the same on all three axes."""
    return repeat(positions, "b l -> b three l", three=3)


def align_right(
    ids: Int[Tensor, "b l"], positions: Int[Tensor, "b 3 l"], lengths: Int[Tensor, " b"]
) -> tuple[Int[Tensor, "b p"], Int[Tensor, "b 3 p"], Bool[Tensor, "b p"]]:
    """Return the first `lengths` tokens of each row, padded on the left, their positions, and which are not padding."""
    longest = int(lengths.max())
    index = torch.arange(longest, device=ids.device) - rearrange(longest - lengths, "b -> b 1")
    first = index.clamp(min=0)
    return ids.gather(1, first), positions.gather(2, axes(first)), index >= 0


BESIDE_WEIGHTS = ("preprocessor_config.json", "chat_template.json")
"""Files of a model's folder that are exported unchanged."""


class Qwen2_5_VLReasoner(Reasoner):
    """Qwen2.5-VL with N image tokens after its chain, whose last hidden states are the semantic summary.

    The sequence is: prompt (with the source image's visual tokens when editing), chain, `<|im_gen_start|>`, N image
    tokens. One causal pass gives the chain's loss and the states.

    Args:
        config: Values of `Qwen2_5_VLConfig` for a model with random weights; give this or `pretrained`.
        pretrained: Local folder or hub id of a trained model, in transformers' layout, in one file or sharded.
        tokenizer: A `tokenizer.json`, or a folder or hub id that has one; that of `pretrained` when None.
        num_tokens: Number N of states, and of image tokens if there are any.
        summary: The states are those at N learned image tokens after the chain ("learned"), or those at the chain's own
            tokens and the `<|im_gen_start|>` after them, resampled evenly to N ("chain": a chain of thought in text
            only, without image tokens).
        image_size: Side of the square that source images are resized to for the vision tower, in pixels.
        coordinates: The vision tower also gets the position of each pixel (see `PatchLayout`); for small new towers.
        tune: "lora" trains adapters on the language decoder and the added tokens' embeddings; "full" trains everything,
            also the vision tower; "frozen" nothing.
        lora_rank, lora_alpha, lora_dropout: Adapter settings, read when `tune` is "lora".
        generation_template, editing_template: All text before the chain, with `{prompt}` and, for editing, `{image}`.
        max_chain_tokens: Longer chains are cut in training and in `summarize`: after the last whole region that fits.
        length_groups: The decoder reads a batch in this number of groups of rows of similar length, which saves padding
            and changes no result. Useful if lengths differ much and a group is still enough work for the device.
        dtype: Precision of the weights.
        repetition_penalty: In written chains, the logits of tokens that stand in the prompt or the chain so far are
            divided by it where positive and multiplied where negative (Keskar et al., 2019); 1 changes nothing.

    Raises:
        ValueError: Both or neither of `config` and `pretrained`, or settings that do not fit; before weights load.
            Weights of another model or size, naming tensors.
        FileNotFoundError: No such tokenizer or model; before weights load.
    """

    processor: Qwen2_5_VLProcessor

    def __init__(
        self,
        config: dict[str, Any] | None = None,
        pretrained: str | None = None,
        tokenizer: str | None = None,
        num_tokens: int = 64,
        summary: Literal["learned", "chain"] = "learned",
        image_size: int = 448,
        coordinates: bool = False,
        tune: net.Tune = "lora",
        lora_rank: int = 32,
        lora_alpha: int = 32,
        lora_dropout: float = 0.05,
        generation_template: str = GENERATION_TEMPLATE,
        editing_template: str = EDITING_TEMPLATE,
        max_chain_tokens: int = 1024,
        length_groups: int = 1,
        dtype: Literal["float32", "bfloat16"] = "float32",
        repetition_penalty: float = 1.0,
    ) -> None:
        super().__init__()
        self._pretrained, self._merged = pretrained, False
        if (config is None) == (pretrained is None):
            raise ValueError("give the reasoner either `config` or `pretrained`, not both or neither")
        if tokenizer is None and pretrained is None:
            raise ValueError("a reasoner from `config` needs `tokenizer`, the path of a tokenizer.json")
        for name, value, most in (("num_tokens", num_tokens, 10_000), ("length_groups", length_groups, 10_000)):
            if not 1 <= value <= most:
                raise ValueError(f"{name} must be 1 to {most:,}, not {value:,}")
        if repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty must be above 0, not {repetition_penalty}")
        self._tokenizer = model_file(tokenizer or pretrained, "tokenizer.json")
        vocabulary = Vocabulary(read_tokenizer(self._tokenizer), num_tokens if summary == "learned" else 0)
        settings = net.small_config(config, vocabulary) if pretrained is None else net.pretrained_config(pretrained)
        vision = settings.vision_config
        sizes = (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)
        layout = PatchLayout(image_size, *sizes, coordinates)
        self.reads_earlier = "{earlier}" in editing_template
        self.processor = Qwen2_5_VLProcessor(
            vocabulary, layout, generation_template, editing_template, max_chain_tokens
        )
        weights = getattr(torch, dtype)
        model = build(
            lambda: Qwen2_5_VLForConditionalGeneration(settings).to(weights),
            pretrained and (lambda: load_whole(Qwen2_5_VLForConditionalGeneration, locate(pretrained), dtype=weights)),
        )
        net.grow_embedding(model, vocabulary)
        if tune != "lora":  # Adapters hold the new rows; otherwise the matrices are no longer their origin's.
            for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
                mark_changed(layer.weight)
        self.mllm = net.tuned(model, tune, vocabulary.added, lora_rank, lora_alpha, lora_dropout)
        self.dim = settings.text_config.hidden_size
        self.num_tokens, self.summary, self.length_groups = num_tokens, summary, length_groups
        self._penalty = None if repetition_penalty == 1 else RepetitionPenaltyLogitsProcessor(repetition_penalty)
        writable = torch.zeros(model.get_output_embeddings().weight.shape[0], dtype=torch.bool)
        writable[vocabulary.writable + vocabulary.stops] = True
        self.register_buffer("_unwritable", ~writable, persistent=False)
        self.register_buffer("_stops", torch.tensor(vocabulary.stops), persistent=False)
        self.register_buffer("_tail", torch.tensor([vocabulary.start, *vocabulary.image_tokens]), persistent=False)

    @property
    def qwen(self) -> Qwen2_5_VLForConditionalGeneration:
        """Return the library's model, with adapters if there are any."""
        return net.untuned(self.mllm)

    def blocks(self) -> Iterable[nn.Module]:
        """Return the vision tower's blocks, then the decoder's layers."""
        return [*self.qwen.model.visual.blocks, *self.qwen.model.language_model.layers]

    def merge_adapters(self) -> None:
        """Merge LoRA and the added tokens' rows into the model, which is frozen then."""
        if net.adapted(self.mllm):
            self.mllm = self.mllm.merge_and_unload().requires_grad_(False)
            self._merged = True

    def export(self, folder: Path) -> None:
        """Write the model, adapters merged, and the tokenizer with the added tokens in transformers' layout.

        The base's settings of its image processor and its chat template are copied if it has them.
        """
        net.merged(self.mllm).save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=self.processor.vocabulary.tokenizer).save_pretrained(folder)
        copy_files(self._pretrained, BESIDE_WEIGHTS, folder)

    def standalone(self, folder: Path) -> dict[str, Any]:
        """Write the tokenizer's file, and the model's configuration if it is not among the arguments.

        A model whose adapters are merged is built again without any.
        """
        folder.mkdir(parents=True)
        copy_files(self._pretrained, ("config.json", *BESIDE_WEIGHTS), folder)
        arguments = {"tokenizer": shutil.copy(self._tokenizer, folder / "tokenizer.json")}
        if self._merged:
            arguments["tune"] = "frozen"
        return arguments if self._pretrained is None else {**arguments, "pretrained": folder}

    def forward(self, batch: Batch) -> Reasoning:
        """Return the chain loss (mean cross-entropy over all chain tokens of the batch) and the states.

        One teacher-forced pass computes both; logits only where a chain token is predicted.
        """
        ids, mask = batch.inputs["input_ids"], batch.inputs["chain_mask"]
        hidden = self._read(batch.inputs)
        logits = self.qwen.lm_head(hidden[:, :-1][mask[:, 1:]])
        loss = functional.cross_entropy(logits.float(), ids[mask])
        return Reasoning(self._summary(hidden, batch.inputs), batch.chains, loss)

    @property
    def question_processor(self) -> Qwen2_5_VLProcessor:
        """Return what makes batches of plain questions, in Qwen's chat format, with answers in place of chains."""
        own = self.processor
        plain = (CHAT.replace("{turn}", turn) for turn in ("{prompt}", "{image}{prompt}"))
        return Qwen2_5_VLProcessor(own.vocabulary, own.layout, *plain, max_chain_tokens=own.max_chain_tokens)

    @torch.no_grad()
    def likelihood(self, batch: Batch) -> tuple[Float[Tensor, " b"], Int[Tensor, " b"]]:
        """Return the log-likelihood in nats of each chain, without the token that ends it, and its number of tokens."""
        ids, mask = batch.inputs["input_ids"], batch.inputs["chain_mask"]
        words = mask & (ids != self.processor.vocabulary.start)
        logits = self.qwen.lm_head(self._read(batch.inputs)[:, :-1][words[:, 1:]])
        spent = functional.cross_entropy(logits.float(), ids[words], reduction="none")
        rows = words.nonzero()[:, 0]
        return -torch.zeros(len(ids), device=spent.device).index_add(0, rows, spent), words.sum(dim=1)

    @torch.no_grad()
    def precompute(self, batch: Batch) -> Precomputed:
        """Compute the vision tower's output for each source image, if the tower is frozen; no rows without a source."""
        if not self._sees_alike:
            return {}
        features = self._see(batch.inputs)
        images = iter(features.split(self.processor.layout.side**2))
        return {FEATURES: [next(images) if given else features[:0] for given in batch.has_source.tolist()]}

    def precomputed_by(self) -> dict[str, Any]:
        """Return what the tower's output depends on, and where long chains, and with them boxes, are cut."""
        vocabulary, layout = self.processor.vocabulary, self.processor.layout
        tower = {
            "weights of the vision tower": fingerprint(self.qwen.model.visual),
            "image_size": layout.image_size,
            "coordinates": layout.coordinates,
        }
        words = vocabulary.tokenizer.to_str().encode()
        return {
            "max_chain_tokens": self.processor.max_chain_tokens,
            "tokenizer": hashlib.blake2b(words, digest_size=8).hexdigest(),
            **(tower if self._sees_alike else {"weights of the vision tower": "trained"}),
        }

    @property
    def _sees_alike(self) -> bool:
        """Whether training leaves the vision tower as it is."""
        return not any(parameter.requires_grad for parameter in self.qwen.model.visual.parameters())

    def summarize(self, batch: Batch, chains: Sequence[str]) -> Reasoning:
        """Return the states after given chains, one for each sample.

        They equal those of `generate` if the tokenizer splits a chain as it was written. A chain of more than
        `max_chain_tokens` is returned as it was cut.
        """
        given = self.processor.with_chains(batch, chains)
        same = tuple(one == other for one, other in zip(given.chains, chains, strict=True))
        return Reasoning(self._summary(self._read(given.inputs), given.inputs), given.chains, reproducible=same)

    @torch.no_grad()
    def continues(self, batch: Batch, chains: Sequence[str]) -> list[bool]:
        """Say whether `<|vision_start|>` is the most likely token after `<|im_gen_end|>`, as the released loop does."""
        vocabulary = self.processor.vocabulary
        inputs = self.processor.with_chains(batch, chains).inputs
        rows = inputs["length"].to(inputs["input_ids"].device)
        one_more = torch.full_like(inputs["input_ids"][:, :1], vocabulary.padding)
        ids = torch.cat([inputs["input_ids"], one_more], dim=1)
        ids[torch.arange(len(ids)), rows] = vocabulary.end
        positions = torch.cat([inputs["position_ids"], inputs["position_ids"][:, :, -1:] + 1], dim=2)
        hidden = self._decode(self._embed(ids, inputs), positions)[torch.arange(len(ids)), rows]
        return (self.qwen.lm_head(hidden).argmax(dim=-1) == vocabulary.vision_start).tolist()

    @torch.no_grad()
    def generate(
        self,
        batch: Batch,
        *,
        temperature: float = 0.0,
        max_new_tokens: int = 1024,
        generator: Generators | None = None,
        listener: ChainListener | None = None,
    ) -> Reasoning:
        """Write chains and read the states from the same cache.

        A chain ends at `<|im_gen_start|>`, `<|vision_start|>` or `<|endoftext|>`.

        Args:
            batch: Prompts and source images; its chains are not used.
            temperature: Divides the logits before sampling; 0 takes the most likely token.
            max_new_tokens: Chains are cut at this length if the model does not stop.
            generator: Of sampled tokens, one or one for each sample; torch's default generator when None.
            listener: Called with the chains so far after each token.
        """
        rows, states = self.write(batch.inputs, temperature, max_new_tokens, generator, listener)
        chains = self._decoded(rows)
        same = tuple(self.processor.fitting(chain)[1] == row for chain, row in zip(chains, rows, strict=True))
        return Reasoning(states, chains, reproducible=same)

    @torch.no_grad()
    def write(
        self,
        inputs: Mapping[str, Tensor],
        temperature: float,
        max_new_tokens: int,
        generator: Generators | None,
        listener: ChainListener | None = None,
    ) -> tuple[list[list[int]], Float[Tensor, "b n d"]]:
        """Return the chains' token ids, without what ended them, and the states; see `generate`.

        Prompts are aligned on the right (padding on the left). A row that has ended gets padding that no later token
        attends to, and its positions do not advance until the image tokens.
        """
        ids, positions, seen = align_right(inputs["input_ids"], inputs["position_ids"], inputs["prompt_length"])
        embed = self.qwen.get_input_embeddings()
        cache = DynamicCache(config=self.qwen.config.text_config)
        padded = not bool(seen.all())
        hidden = self._decode(self._embed(ids, inputs), positions, seen if padded else None, cache)
        position = positions[:, 0, -1] + 1
        running = torch.ones_like(position, dtype=torch.bool)
        written: list[Tensor] = []
        read: list[Tensor] = []
        for _ in range(max_new_tokens):
            logits = self._logits(hidden[:, -1])
            if self._penalty is not None:
                # In place of padding stands a token of the row's own.
                sequence = torch.cat(
                    [
                        torch.where(seen[:, : ids.shape[1]], ids, ids[:, -1:]),
                        *(rearrange(each, "b -> b 1") for each in written),
                    ],
                    1,
                )
                logits = self._penalty(torch.where(sequence >= 0, sequence, ids[:, -1:]), logits)
            token = choose(logits, temperature, generator)
            running = running & ~torch.isin(token, self._stops)
            if not running.any():
                break
            written.append(torch.where(running, token, -1))
            if listener is not None:
                listener(self._decoded(without_padding(written)))
            seen = torch.cat([seen, rearrange(running, "b -> b 1")], dim=1)
            padded = padded or not bool(running.all())
            mask = seen if padded else None
            hidden = self._decode(embed(rearrange(token, "b -> b 1")), axes(position[:, None]), mask, cache)
            read.append(hidden)
            position = position + running
        tail = repeat(self._tail, "l -> b l", b=len(ids))
        seen = torch.cat([seen, torch.ones_like(tail, dtype=torch.bool)], dim=1)
        after = position[:, None] + torch.arange(tail.shape[1], device=tail.device)
        read.append(self._decode(embed(tail), axes(after), seen if padded else None, cache))
        if self.summary == "chain":
            columns = torch.stack(written, dim=1) if written else ids[:, :0]
            states = spread(torch.cat(read, dim=1), functional.pad(columns >= 0, (0, 1), value=True), self.num_tokens)
        else:
            states = read[-1][:, -self.num_tokens :]
        return without_padding(written) if written else [[] for _ in ids], states

    def _decoded(self, rows: Sequence[list[int]]) -> tuple[str, ...]:
        return tuple(self.processor.vocabulary.decode(row) for row in rows)

    def _embed(self, ids: Int[Tensor, "b l"], inputs: Mapping[str, Tensor]) -> Float[Tensor, "b l d"]:
        """Return token embeddings, with the vision tower's output at the image tokens.

        Without an image the tower runs in training only, where all ranks exchange its gradients.
        """
        embeddings = self.qwen.get_input_embeddings()(ids)
        visible = rearrange(ids == self.processor.vocabulary.image_pad, "b l -> b l 1")
        if FEATURES in inputs:
            features = inputs[FEATURES]
        elif torch.is_grad_enabled() or visible.any():
            features = self._see(inputs)
        else:
            return embeddings
        return embeddings.masked_scatter(visible, features.to(embeddings.dtype))

    def _see(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "v d"]:
        """Return the vision tower's output for all images, one row a visual token."""
        visual = self.qwen.model.visual
        features: Tensor = visual(
            inputs["pixel_values"].to(visual.dtype), grid_thw=inputs["image_grid_thw"]
        ).pooler_output
        return features

    def _decode(
        self,
        embeddings: Float[Tensor, "b l d"],
        positions: Int[Tensor, "b 3 l"],
        seen: Bool[Tensor, "b s"] | None = None,
        cache: DynamicCache | None = None,
    ) -> Float[Tensor, "b l d"]:
        """Return the last hidden states, after the final norm.

        `seen` marks the tokens, cached ones first, that may be attended to; None for all.
        """
        return self.qwen.model.language_model(
            inputs_embeds=embeddings,
            position_ids=rearrange(positions, "b three l -> three b l"),
            attention_mask=seen,
            use_cache=cache is not None,
            **{net.CACHE: cache},
        ).last_hidden_state

    def _read(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "b l d"]:
        """Return the hidden states of whole sequences; padding is on the right, so the causal order hides it."""
        embeddings, positions = self._embed(inputs["input_ids"], inputs), inputs["position_ids"]
        if self.length_groups == 1:
            return self._decode(embeddings, positions)
        order = inputs["length"].argsort()
        parts = []
        for rows in order.chunk(self.length_groups):
            longest = int(inputs["length"][rows].max())
            hidden = self._decode(embeddings[rows, :longest], positions[rows, :, :longest])
            parts.append(functional.pad(hidden, (0, 0, 0, embeddings.shape[1] - longest)))
        return torch.cat(parts)[order.argsort()]

    def _summary(self, hidden: Float[Tensor, "b l d"], inputs: Mapping[str, Tensor]) -> Float[Tensor, "b n d"]:
        if self.summary == "chain":
            return spread(hidden, inputs["chain_mask"], self.num_tokens)
        return rearrange(hidden[inputs["summary_mask"]], "(b n) d -> b n d", n=self.num_tokens)

    def _logits(self, hidden: Float[Tensor, "b d"]) -> Float[Tensor, "b v"]:
        """Return logits of the next token: text, an object or box token, or one that ends the chain."""
        return self.qwen.lm_head(hidden).float().masked_fill(self._unwritable, -torch.inf)
