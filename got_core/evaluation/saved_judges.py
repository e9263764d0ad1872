"""Models of transformers that judge images, loaded whole or not at all."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from got_core.errors import UserError, one_line
from got_core.loading import load_whole
from got_core.paths import locate

CONFIG = "config.json"
"""Beside a model's weights, in a folder or in the cache of the hub."""


def load_judge(family: Any, processor: Any, place: str, **settings: Any) -> tuple[Any, Any]:
    """A frozen model of transformers in evaluation mode and its processor; safetensors only, no code of the model's.

    Args:
        family: The model's class.
        processor: The processor's class.
        place: A folder in transformers' layout, or a hub id.
        settings: Further arguments of the model.

    Raises:
        UserError: It cannot be loaded, whatever the reason, or is a model of another kind.
    """
    try:
        where = locate(place)
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        if not isinstance(config, family.config_class):
            raise ValueError(f"it is a {config.model_type}")
        model = load_whole(family, where, use_safetensors=True, dtype=torch.float32, **settings)
        reads = processor.from_pretrained(where)
        tokenizer = getattr(reads, "tokenizer", None)
        if tokenizer is not None and len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise ValueError("its tokenizer's files are not there, all words would be alike")
        return model.eval().requires_grad_(False), reads
    except (OSError, ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise UserError(f"{place} cannot be loaded as {family.__name__}: {one_line(error)}") from error


def weights_of(place: str) -> list[Path]:
    """The files of weights of a model that has been loaded, from a folder or from the cache of the hub.

    Raises:
        UserError: There is no model in that place.
    """
    where = Path(locate(place))
    if not where.is_dir():
        cached = try_to_load_from_cache(place, CONFIG)
        if not isinstance(cached, str):
            raise UserError(f"{place}: not in the cache of the hub")
        where = Path(cached).parent
    return sorted(where.glob("*.safetensors"))
