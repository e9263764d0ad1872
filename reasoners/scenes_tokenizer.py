"""Trains the tokenizer of the scene recipes: `python -m reasoners.scenes_tokenizer [path]`."""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from got_core.chain.parser import SIDE
from got_core.data.scenes.dataset import corpus
from got_core.data.scenes.render import BACKGROUNDS, COLOURS, SHAPES
from reasoners.tokenizer import QWEN_TOKENS

WORDS_AND_NUMBERS = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen's split of a text before merging, but with up to three digits together, so a coordinate can be one token."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, path: str | Path, whole: Sequence[str] = ()) -> Tokenizer:
    """Train a byte-level BPE on texts and write it as one `tokenizer.json`.

    Any text can be encoded, if necessary byte by byte. Qwen's control tokens follow the trained entries, as in Qwen's
    own vocabulary, and are never part of a merge.

    Args:
        texts: Texts like those that will be written; control tokens in them are recognised.
        vocab_size: Number of entries, including control tokens.
        path: Of the file; its folder is made if needed.
        whole: Words or numbers that must be single tokens, however rare in `texts`.

    Raises:
        ValueError: The size leaves no room for every piece in `whole`.
    """
    control = re.compile("|".join(re.escape(token) for token in QWEN_TOKENS))
    pieces = [piece for text in texts for piece in control.split(text) if piece]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS_AND_NUMBERS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(QWEN_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    often = max(len(pieces), 1)
    tokenizer.train_from_iterator([*pieces, *(word for word in whole for _ in range(often))], trainer)
    tokenizer.add_special_tokens(list(QWEN_TOKENS))
    if split := [word for word in whole if len(tokenizer.encode(word).ids) != 1]:
        raise ValueError(f"{vocab_size} entries leave no room to keep {len(split)} pieces whole, such as {split[0]!r}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path), pretty=False)
    return tokenizer


PATH = "recipes/assets/scenes_tokenizer.json"
VOCAB_SIZE = 600
COORDINATES = tuple(str(min(SIDE - 1, round(step * SIDE / 32))) for step in range(33))
"""Every coordinate that a 32-pixel scene can have."""


def texts() -> Iterator[str]:
    """Yield prompts and chains of the default scenes, and of scenes with all shapes, colours and backgrounds."""
    yield from corpus(4_000)
    yield from corpus(2_000, shapes=tuple(SHAPES), colours=tuple(COLOURS), backgrounds=tuple(BACKGROUNDS))


if __name__ == "__main__":
    train_tokenizer(texts(), VOCAB_SIZE, sys.argv[1] if len(sys.argv) > 1 else PATH, whole=COORDINATES)
