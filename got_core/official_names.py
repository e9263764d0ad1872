"""The released GoT checkpoint's names and a system's, in one plain form.

That form has the released prefixes, transformers' present layout and none of peft's wrappings; `plain_name` puts their
names into it and `plain_own` ours.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from torch import Tensor, nn

from got_core.errors import UserError

MLLM, UNET, VAE = "mllm.", "unet.", "vae."

PREFIXES = {
    MLLM: "reasoner.mllm.",
    "output_projector.projector.": "guidance.projector.",
    "output_projector_add.projector.": "guidance.pooled_projector.",
    UNET: "backbone.unet.",
    VAE: "codec.autoencoder.",
}
"""Prefixes of the released checkpoint, and of the same weights in a `GoTSystem`."""

EMBEDDINGS = ("mllm.model.language_model.embed_tokens.weight", "mllm.lm_head.weight")
"""Matrices of a row for each token, in plain names."""

ADDED_ROWS = "trainable_tokens_delta"
"""The last part of the name of peft's trained rows of an embedding."""

_PEFT = "base_model.model."
_WRAPPING = re.compile(r"\.(base_layer|token_adapter)(?=\.)")
_TRAINED_WHOLE = re.compile(r"\.modules_to_save(\.default)?(?=\.)")
_REPLACED = re.compile(r"\.original_module(?=\.)")
_ADAPTER = re.compile(rf"\.(lora_[AB]|{ADDED_ROWS})\.default(?=\.|$)")
_DECODER = re.compile(r"^model\.(?=(layers|embed_tokens|norm)\.)")
_TOWER = re.compile(r"^visual\.")
ADDED = re.compile(rf"\.(lora_[AB]\.weight|{ADDED_ROWS})$")
"""Ends of plain names of what training added to the language model."""


@dataclass(frozen=True)
class Target:
    """What a system of ours wants to be given.

    Attributes:
        shapes: Plain name to shape, without what is tied to another name.
        own: Plain name to the name in the system's state dict.
        tied: Plain name to the plain name of the tensor that it shares.
        rows: Plain name of an embedding matrix to the rows of it that peft trains apart.
        loaded: Prefixes of the released names whose weights the system has from base folders.
    """

    shapes: Mapping[str, torch.Size]
    own: Mapping[str, str]
    tied: Mapping[str, str]
    rows: Mapping[str, tuple[int, ...]]
    loaded: Collection[str]

    @classmethod
    def of(cls, system: nn.Module, loaded: Collection[str]) -> "Target":
        """The target that a system is; one on the meta device will do."""
        shapes: dict[str, torch.Size] = {}
        own: dict[str, str] = {}
        tied: dict[str, str] = {}
        first: dict[int, str] = {}
        for name, tensor in system.state_dict(keep_vars=True).items():
            plain = plain_own(name)
            owner = first.setdefault(id(tensor), plain)
            if owner == plain:
                shapes[plain], own[plain] = tensor.shape, name
            else:
                tied[plain] = owner
        rows = {
            plain_own(f"{name}.weight"): tuple(indices)
            for name, module in system.named_modules()
            if isinstance(module, TrainableTokensLayer)
            for indices in module.token_indices.values()
        }
        return cls(shapes, own, tied, rows, loaded)


@dataclass(frozen=True)
class Source:
    """The released checkpoint by plain names.

    Attributes:
        tensors: Plain name to tensor.
        names: Plain name to the checkpoint's name.
        replaced: Names of the checkpoint that hold what a module was before it was trained whole.
        trained_whole: Plain names of modules that peft trained whole (`modules_to_save`).
    """

    tensors: Mapping[str, Tensor]
    names: Mapping[str, str]
    replaced: tuple[str, ...] = ()
    trained_whole: frozenset[str] = frozenset()

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Source":
        """Sort a checkpoint.

        Raises:
            UserError: Two tensors of one meaning.
        """
        names: dict[str, str] = {}
        replaced, whole = [], set()
        for name in sorted(tensors):
            trained = {_REPLACED.sub(part, name) for part in (".modules_to_save", ".modules_to_save.default")}
            if _REPLACED.search(name) and trained & tensors.keys():
                replaced.append(name)
                continue
            plain = plain_name(name)
            if plain in names:
                raise UserError(f"the checkpoint has one tensor twice: {names[plain]} and {name}")
            names[plain] = name
            if _TRAINED_WHOLE.search(name):
                whole.add(plain)
        by_plain = {plain: tensors[name] for plain, name in names.items()}
        return cls(by_plain, names, tuple(replaced), frozenset(whole))


def plain_name(name: str) -> str:
    """A name of the released checkpoint in plain form, whether peft wrapped the model or not."""
    if not name.startswith(MLLM):
        return name
    path = name.removeprefix(MLLM).removeprefix(_PEFT)
    path = _TRAINED_WHOLE.sub("", _WRAPPING.sub("", path))
    path = _ADAPTER.sub(r".\1", path)
    return MLLM + _TOWER.sub("model.visual.", _DECODER.sub("model.language_model.", path))


def plain_own(name: str) -> str:
    """A name of a `GoTSystem`'s state dict in plain form; one that the released system does not have stays as it is."""
    for theirs, ours in PREFIXES.items():
        if name.startswith(ours):
            return plain_name(theirs + name.removeprefix(ours))
    return name
