"""Training of a small tokenizer that has Qwen's control tokens."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from reasoners.tokenizer import QWEN_TOKENS

WORDS_AND_NUMBERS = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen's split of a text before merging, but with up to three digits together, so a coordinate can be one token."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, path: str | Path, whole: Sequence[str] = ()) -> Tokenizer:
    """Train a byte-level BPE on some texts and write it as one `tokenizer.json`.

    Any text stays encodable, byte by byte if need be. Qwen's control tokens follow the trained entries, as in Qwen's
    own vocabulary, and are never part of a merge.

    Args:
        texts: The texts to be written later; control tokens in them are recognised.
        vocab_size: Entries in all, control tokens included.
        path: Where to write; its folder is made when it is missing.
        whole: Words or numbers that must be single tokens whether or not they are frequent in `texts`.

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
