"""Imports the released GoT checkpoint (arXiv 2503.10639): names, and what happens to each tensor."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from torch import Tensor, nn

from got_core.errors import UserError
from got_core.weights.checkpoints import read_tensors
from got_core.weights.loading import all_weights, origins, what_differs, without_weights

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
"""Matrices with a row for each token, by plain name."""

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
"""Ends of the plain names of what training added to the language model."""


@dataclass(frozen=True)
class Target:
    """What a system of ours needs.

    Attributes:
        shapes: Plain name to shape, without what is tied to another name.
        own: Plain name to the name in the system's state dict.
        tied: Plain name to the plain name of the tensor that it shares.
        rows: Plain name of an embedding matrix to its rows that peft trains separately.
        loaded: Prefixes of the released names whose weights the system has from base folders.
    """

    shapes: Mapping[str, torch.Size]
    own: Mapping[str, str]
    tied: Mapping[str, str]
    rows: Mapping[str, tuple[int, ...]]
    loaded: Collection[str]

    @classmethod
    def of(cls, system: nn.Module, loaded: Collection[str]) -> "Target":
        """Describe a system, which may be on the meta device."""
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
        replaced: Names in the checkpoint of modules as they were before peft trained them as a whole.
        trained_whole: Plain names of modules that peft trained as a whole (`modules_to_save`).
    """

    tensors: Mapping[str, Tensor]
    names: Mapping[str, str]
    replaced: tuple[str, ...] = ()
    trained_whole: frozenset[str] = frozenset()

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Source":
        """Sort the tensors of a checkpoint.

        Raises:
            UserError: Two tensors have the same plain name.
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
    """Return a name of the released checkpoint in plain form, whether peft wrapped the model or not."""
    if not name.startswith(MLLM):
        return name
    path = name.removeprefix(MLLM).removeprefix(_PEFT)
    path = _TRAINED_WHOLE.sub("", _WRAPPING.sub("", path))
    path = _ADAPTER.sub(r".\1", path)
    return MLLM + _TOWER.sub("model.visual.", _DECODER.sub("model.language_model.", path))


def plain_own(name: str) -> str:
    """Return a name of a `GoTSystem`'s state dict in plain form; names that were not released stay as they are."""
    for theirs, ours in PREFIXES.items():
        if name.startswith(ours):
            return plain_name(theirs + name.removeprefix(ours))
    return name


@dataclass(frozen=True)
class Import:
    """What became of every tensor of a checkpoint and of a system.

    Attributes:
        weights: What the base folders do not have, by the system's names.
        in_base: Names of the system whose values are those of the base folders.
        taken, equal, replaced: Names of the checkpoint that were taken, that are equal to the base folders' or to the
            tensor they are tied to, and of modules before they were trained as a whole.
        origins: The base folders, as `got_core.weights.loading.origins` describes them.
    """

    weights: dict[str, Tensor] = field(repr=False)
    in_base: tuple[str, ...]
    taken: tuple[str, ...]
    equal: tuple[str, ...]
    replaced: tuple[str, ...]
    origins: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def convert(build: Callable[[], nn.Module], checkpoint: str | Path, loaded: Collection[str]) -> Import:
    """Read the released checkpoint under the names of a system; whether it fits is checked before base weights load.

    Args:
        build: Builds the system, a `GoTSystem`.
        checkpoint: File or folder.
        loaded: The components that have weights from base folders: `reasoner`, `backbone`, `codec`.

    Raises:
        UserError: The system lacks one of the released parts, or the checkpoint does not fit.
    """
    with without_weights():
        system = build()
    names = system.state_dict()
    if strange := [theirs for theirs, ours in PREFIXES.items() if not any(name.startswith(ours) for name in names)]:
        raise UserError(f"the recipe's model does not have the checkpoint's {', '.join(strange)}")
    in_base = [theirs for theirs, ours in PREFIXES.items() if ours.partition(".")[0] in loaded]
    source = Source.of(read_tensors(checkpoint))
    check(source, Target.of(system, in_base))
    system = build()
    with all_weights():
        result = account(source, Target.of(system, in_base), system.state_dict())
    return replace(result, origins=origins(system, result.in_base))


def check(source: Source, target: Target) -> None:
    """Check that a checkpoint has all that a system needs, in the right shapes, and nothing else.

    UNet and projectors were trained as a whole and must be complete. The mllm's own weights and the autoencoder's may
    all be absent if the system has them from base folders; of the embeddings also a part.

    Raises:
        UserError: Tensors are missing, unexpected or of another shape; they are named.
    """
    derived = {_added_rows(matrix): matrix for matrix in target.rows}
    given = {target.tied.get(name, name) for name in source.tensors}
    missing = [
        name
        for name in target.shapes
        if name not in given and derived.get(name) not in given and not _may_lack(name, source, target)
    ]
    left_over = [source.names[name] for name in source.tensors if name not in target.shapes and name not in target.tied]
    misshapen = []
    for name, tensor in source.tensors.items():
        wanted = target.shapes.get(target.tied.get(name, name))
        if wanted is not None and not _fits(name, tensor.shape, wanted, target):
            misshapen.append(f"{source.names[name]}: {list(tensor.shape)} instead of {list(wanted)}")
    if problem := what_differs(missing, left_over, misshapen):
        raise UserError(f"the checkpoint does not fit the recipe: {problem}")


def account(source: Source, target: Target, base: Mapping[str, Tensor]) -> Import:
    """Decide which tensors to write, and record what becomes of each; call `check` first.

    Args:
        source: The checkpoint.
        target: The system.
        base: The system's state dict with the base folders' weights.

    Raises:
        UserError: Two tensors that the system ties differ in the checkpoint.
    """
    weights: dict[str, Tensor] = {}
    taken: list[str] = []
    equal: list[str] = []
    for name, tensor in source.tensors.items():
        owner = target.tied.get(name, name)
        if owner != name and owner in source.tensors:
            if not torch.equal(tensor, source.tensors[owner]):
                raise UserError(
                    f"{source.names[name]} and {source.names[owner]} differ in the checkpoint, "
                    "but the recipe's reasoner ties them (tie_word_embeddings)"
                )
            equal.append(source.names[name])
            continue
        written = {}
        rows, own = target.rows.get(owner, ()), target.own[owner]
        if rows and _added_rows(owner) not in source.tensors:
            written[target.own[_added_rows(owner)]] = tensor[list(rows)]
        values = _with_spare_rows(tensor, base[own])
        if not _from_base(owner, target) or _differs(values, base[own], rows):
            written[own] = values
        weights.update(written)
        (taken if written else equal).append(source.names[name])
    in_base = tuple(name for name in target.own.values() if name not in weights)
    return Import(weights, in_base, tuple(taken), tuple(equal), source.replaced)


def _added_rows(matrix: str) -> str:
    """Return the plain name of the rows that are trained separately from their matrix."""
    return matrix.removesuffix("weight") + ADDED_ROWS


def _from_base(name: str, target: Target) -> bool:
    """Say whether the system has this tensor from base folders, if only with zeros in a UNet's new channels."""
    return name.startswith(tuple(target.loaded)) and not ADDED.search(name)


def _may_lack(name: str, source: Source, target: Target) -> bool:
    """Say whether the checkpoint may leave a tensor to the base folders."""
    if not name.startswith((MLLM, VAE)) or not _from_base(name, target):
        return False
    prefix = VAE if name.startswith(VAE) else MLLM
    apart = source.trained_whole.union(EMBEDDINGS)
    untrained = (other for other in source.tensors if other not in apart and not ADDED.search(other))
    return name in EMBEDDINGS or not any(other.startswith(prefix) for other in untrained)


def _fits(name: str, given: torch.Size, wanted: torch.Size, target: Target) -> bool:
    """Say whether a shape is right; an embedding may have more or fewer spare rows behind the last token."""
    rows = target.rows.get(name)
    if rows and len(given) == len(wanted):
        return given[1:] == wanted[1:] and given[0] > max(rows)
    return given == wanted


def _with_spare_rows(given: Tensor, base: Tensor) -> Tensor:
    """Return a tensor with as many rows as the base's, filled up with the base's last rows."""
    if given.shape == base.shape:
        return given
    return torch.cat([given[: len(base)], base[len(given) :].to(given.dtype)])


def _differs(given: Tensor, base: Tensor, rows: Collection[int]) -> bool:
    """Say whether a tensor differs from the base's, apart from some rows."""
    same = given.to(base.dtype) == base
    if rows:
        same[list(rows)] = True
    return not bool(same.all())
