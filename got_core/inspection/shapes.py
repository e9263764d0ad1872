"""Runs a model in shape alone: FLOPs and memory of every operation are counted, and none is computed."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry, register_flop_formula, sdpa_backward_flop, sdpa_flop

META = torch.device("meta")

_aten = torch.ops.aten
_INDEXING = (
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
    _aten._unsafe_index_put.default,
)

for _operator, _count in (
    (_aten._scaled_dot_product_flash_attention_for_cpu, sdpa_flop),
    (_aten._scaled_dot_product_flash_attention_for_cpu_backward, sdpa_backward_flop),
):
    if _operator not in flop_registry:  # torch itself counts the CPU's attention from 2.15 on.
        register_flop_formula(_operator, get_raw=True)(_count)


class ShapeRun(TorchDispatchMode):
    """Inside, an operation on any meta tensor gives meta tensors, whatever else it reads.

    Weights and activations are on the meta device; what determines shapes (ids, masks, grids) stays real, so the
    lengths that follow from it are right. Attention is counted as in the fused kernels, which keep no score matrix.

    Attributes:
        flops: Of the matrix products and convolutions so far.
        live: Bytes of the tensors made inside that still exist.
        stage: A number that the caller sets.
        peaks: The most bytes at a time, for each stage.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.live = 0
        self.stage = 0
        self.peaks: dict[int, int] = {}
        self._attention = _fused_attention()
        self._known: set[int] = set()
        self._results: dict[Any, tuple[torch.Size, tuple[int, ...], torch.dtype]] = {}

    def __enter__(self) -> "ShapeRun":
        self._attention.__enter__()
        return super().__enter__()

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        self._attention.__exit__(*details)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = _tensors((args, kwargs))
        shapes = [tensor for tensor in tensors if tensor.is_meta]
        if shapes:
            if func in _INDEXING:
                args = (args[0], _plain_indices(args[1]), *args[2:])
            if len(shapes) < len(tensors):
                args, kwargs = tree_map_only(Tensor, _on_meta, (args, kwargs))
        for tensor in shapes:
            self._watch(tensor, new=False)
        result = self._repeated(func, args, kwargs) if _makes_new(func) else func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=result)
        for tensor in _tensors(result):
            if tensor.is_meta:
                self._watch(tensor, new=True)
        return result

    def _repeated(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return an operator's result, with the cached shape for known shapes: models repeat their blocks."""
        key = (func, _described(args), _described(kwargs))
        cached = self._results.get(key)
        if cached is None:
            result = func(*args, **kwargs)
            if isinstance(result, Tensor) and result.is_meta and not _shares_memory(result, (args, kwargs)):
                self._results[key] = (result.shape, result.stride(), result.dtype)
            return result
        shape, stride, dtype = cached
        return torch.empty_strided(shape, stride, dtype=dtype, device=META)

    def _watch(self, tensor: Tensor, new: bool) -> None:
        """Count a tensor's memory from now until it is freed; tensors from outside do not count."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if new else 0
        self._known.add(key)
        self.live += size
        self.peaks[self.stage] = max(self.peaks.get(self.stage, 0), self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Inside, attention on meta tensors is one fused operator; a function mode would not reach recomputation."""
    plain = F.scaled_dot_product_attention

    def attention(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        fused = query.is_meta and query.ndim == 4  # batch, heads, length, width
        return _fused(query, *args, **kwargs) if fused else plain(query, *args, **kwargs)

    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = plain


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        shared = query.shape[1] // key.shape[1]
        key, value = (repeat(part, "b h l d -> b (h shared) l d", shared=shared) for part in (key, value))
    operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return operator(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


def _tensors(tree: Any) -> list[Tensor]:
    """Return the tensors among an operator's arguments or results."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@cache
def _makes_new(func: Any) -> bool:
    """Say whether an operator declares that it changes none of its arguments and returns no view of them."""
    parts = (*func._schema.arguments, *func._schema.returns)
    return all(part.alias_info is None for part in parts)


def _shares_memory(result: Tensor, arguments: Any) -> bool:
    """Say whether a result is in an argument's memory, as that of `_unsafe_view`, which does not declare it."""
    storage = result.untyped_storage()._cdata
    return any(tensor.untyped_storage()._cdata == storage for tensor in _tensors(arguments))


def _described(tree: Any) -> Any:
    """Return what the shape of an operator's result on the meta device can depend on in its arguments."""
    if isinstance(tree, Tensor):
        return tree.shape, tree.stride(), tree.dtype, tree.is_meta
    if isinstance(tree, list | tuple):
        return tuple(_described(part) for part in tree)
    if isinstance(tree, dict):
        return tuple((name, _described(part)) for name, part in tree.items())
    return type(tree), tree


def _plain_indices(indices: Any) -> list[Tensor | None]:
    """Return indices with boolean masks replaced by the positions where they are True."""
    plain: list[Tensor | None] = []
    for index in indices:
        plain += list(index.nonzero(as_tuple=True)) if index is not None and index.dtype == torch.bool else [index]
    return plain


def _on_meta(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_meta else tensor.to(META)


def to_shape(module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Put all weights of a module on the meta device; integer buffers stay real.

    Args:
        module: Built, with weights or in shape alone; changed in place.
        dtype: Of all floating-point weights; as they are when None.
    """
    replaced: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in replaced:
                shape = torch.empty_like(parameter, device=META, dtype=dtype)
                replaced[id(parameter)] = nn.Parameter(shape, requires_grad=parameter.requires_grad)
            part._parameters[name] = replaced[id(parameter)]
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                part._buffers[name] = torch.empty_like(buffer, device=META, dtype=dtype)


@contextmanager
def in_shape(module: nn.Module, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Inside, the module is as `to_shape` makes it; afterwards it has its own weights again."""
    own = [(part, dict(part._parameters), dict(part._buffers)) for part in module.modules()]
    to_shape(module, dtype)
    try:
        yield
    finally:
        for part, weights, buffers in own:
            part._parameters.update(weights)
            part._buffers.update(buffers)
