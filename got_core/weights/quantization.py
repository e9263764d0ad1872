"""Frozen weights in 8 or 4 bits, by bitsandbytes (LLM.int8, Dettmers et al., 2022; NF4, Dettmers et al., 2023)."""

from collections import Counter
from importlib.util import find_spec
from typing import Any

from torch import nn

from got_core.errors import UserError
from got_core.paths import quiet

BITS = (8, 4)
"""Precisions that there are, in bits."""

BLOCK = 64
"""Weights that share a scale in 4 bits; layers whose inputs do not divide into blocks keep their precision."""

OUTLIERS = 6.0
"""Inputs beyond it are multiplied in 16 bits, as in LLM.int8."""

SMALLEST = 4096
"""Weights of a layer below which nothing is gained."""


def check_bits(bits: int) -> None:
    """Check that weights can be had in so many bits, before any are read.

    Raises:
        ValueError: There is no such precision.
        UserError: There is no bitsandbytes.
    """
    if bits not in BITS:
        raise ValueError(f"weights have 8 or 4 bits, not {bits!r}")
    if find_spec("bitsandbytes") is None:
        raise UserError('weights in 8 or 4 bits need bitsandbytes: pip install "got-framework[quantized]"')


def quantize(module: nn.Module, bits: int) -> None:
    """Convert the weights of a module's linear layers to 8 or 4 bits, in place, layer by layer; they are frozen then.

    A matrix that several layers share, such as that of embeddings, keeps its precision, and so do small ones.

    Args:
        module: With its weights; those of each layer are converted where they lie.
        bits: Of `BITS`.
    """
    quiet()
    shared = Counter(id(weight) for layer in module.modules() for weight in layer.parameters(recurse=False))
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and shared[id(layer.weight)] == 1 and _is_large(layer):
                setattr(parent, name, _quantized(layer, bits))


def follow_weights(module: nn.Module) -> None:
    """Move what layers in 8 bits keep beside their weights to the device that `Module.to` has moved these to."""
    for layer in module.modules():
        if type(layer).__name__ == "Linear8bitLt":
            own: Any = layer
            if own.weight.CB is not None:
                own.init_8bit_state()
            own.state.CB, own.state.SCB = own.weight.data, own.state.SCB.to(own.weight.device)


def is_quantized(module: nn.Module) -> bool:
    """Say whether weights of a module are in 8 or 4 bits."""
    return any(type(layer).__name__ in ("Linear8bitLt", "Linear4bit") for layer in module.modules())


def _is_large(layer: nn.Linear) -> bool:
    return layer.weight.numel() >= SMALLEST and layer.in_features % BLOCK == 0


def _quantized(layer: nn.Linear, bits: int) -> nn.Module:
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    shape: dict[str, Any] = {
        "input_features": layer.in_features,
        "output_features": layer.out_features,
        "bias": layer.bias is not None,
        "device": "meta",
    }
    if bits == 8:
        new: Any = Linear8bitLt(**shape, has_fp16_weights=False, threshold=OUTLIERS)
        new.weight = Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    else:
        new = Linear4bit(**shape, compute_dtype=layer.weight.dtype, quant_type="nf4")
        new.weight = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", blocksize=BLOCK)
    new.bias = layer.bias
    quantized: nn.Module = new.to(layer.weight.device)
    return quantized.requires_grad_(False)
