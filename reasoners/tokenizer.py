"""Qwen's control tokens, the added image tokens, and what a reasoner needs from its tokenizer."""

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tokenizers import Tokenizer

from got_core.errors import one_line
from got_core.paths import locate

PADDING = "<|endoftext|>"
IMAGE_PAD = "<|image_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
GROUNDING_TOKENS = (
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
)
QWEN_TOKENS = (
    PADDING,
    "<|im_start|>",
    "<|im_end|>",
    *GROUNDING_TOKENS,
    VISION_START,
    VISION_END,
    "<|vision_pad|>",
    IMAGE_PAD,
    "<|video_pad|>",
)
"""Qwen2.5-VL's own control tokens, in the order of their ids (151643 to 151656 in the full vocabulary)."""

GENERATION_START, GENERATION_END = "<|im_gen_start|>", "<|im_gen_end|>"
STOP_TOKENS = (GENERATION_START, VISION_START, PADDING)
"""Tokens that end a chain."""


def image_tokens(number: int) -> list[str]:
    """Return the names of the N image tokens."""
    return [f"<|im_gen_{index:04d}|>" for index in range(number)]


def model_file(source: str, filename: str) -> Path:
    """Return the path of a file of a model, given as a folder or a hub id; a path to a `.json` file is that file.

    Raises:
        FileNotFoundError: It is neither on this machine nor on the hub.
    """
    path = Path(locate(source))
    if path.exists():
        path = path / filename if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        return path
    try:
        return Path(hf_hub_download(source, filename))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(
            f"'{source}' is not a folder here, and {filename} could not be had from the hub under that id "
            f"({type(error).__name__})"
        ) from error


def copy_files(source: str | None, names: Sequence[str], folder: Path) -> None:
    """Copy the named files of a model that exist into a folder; nothing without a model."""
    for name in names if source else ():
        with suppress(FileNotFoundError):
            shutil.copy(model_file(str(source), name), folder)


def read_tokenizer(file: str | Path) -> Tokenizer:
    """Read a `tokenizer.json`.

    Raises:
        ValueError: It is not one; the message names the file.
    """
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # The library raises nothing more special.
        raise ValueError(f"{file}: not a readable tokenizer ({one_line(error)})") from None


class Vocabulary:
    """A picklable tokenizer with Qwen's control tokens and N appended image tokens.

    Args:
        tokenizer: Any byte-level tokenizer that has Qwen's control tokens; it is changed in place.
        num_tokens: Number N of image tokens.

    Attributes:
        added: Ids of `<|im_gen_start|>`, `<|im_gen_end|>`, then the image tokens (the reference's order).
        new: Those that the tokenizer did not have.
        stops: Ids that end a chain.
        writable: Ids that a chain may have: ordinary text and Qwen's object, box and quad tokens.

    Raises:
        ValueError: The tokenizer lacks one of Qwen's control tokens.
    """

    def __init__(self, tokenizer: Tokenizer, num_tokens: int) -> None:
        if missing := [token for token in QWEN_TOKENS if tokenizer.token_to_id(token) is None]:
            raise ValueError(f"the tokenizer lacks tokens that Qwen2.5-VL needs: {', '.join(missing)}")
        wanted = [GENERATION_START, GENERATION_END, *image_tokens(num_tokens)]
        before = tokenizer.get_vocab_size()
        tokenizer.add_special_tokens(wanted)
        self.tokenizer = tokenizer
        self.added = [tokenizer.token_to_id(token) for token in wanted]
        self.new = [id_ for id_ in self.added if id_ >= before]
        self.stops = [tokenizer.token_to_id(token) for token in STOP_TOKENS]
        self.padding = tokenizer.token_to_id(PADDING)
        self.image_pad = tokenizer.token_to_id(IMAGE_PAD)
        self.start, self.end = (tokenizer.token_to_id(token) for token in (GENERATION_START, GENERATION_END))
        self.vision_start = tokenizer.token_to_id(VISION_START)
        self.image_tokens = [tokenizer.token_to_id(token) for token in image_tokens(num_tokens)]
        controls = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        controls -= set(GROUNDING_TOKENS)
        self.writable = sorted(id_ for token, id_ in tokenizer.get_vocab().items() if token not in controls)
        self._control = re.compile("|".join(re.escape(token) for token in sorted(controls, key=len, reverse=True)))

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def id(self, token: str) -> int:
        """Return the id of a token that exists."""
        return int(self.tokenizer.token_to_id(token))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, with control tokens in it recognised."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, including Qwen's object and box tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def without_controls(self, text: str) -> str:
        """Replace control tokens that a user may have typed by blanks; object, box and quad tokens stay."""
        return self._control.sub(" ", text)
