"""Memory of generating an image, computed in shape alone: by stage, with all weights on the device or some."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from rich.table import Table
from torch import Tensor, nn

from got_core.diffusion.sampling import branches
from got_core.inspection.costs import on_meta, typical_samples
from got_core.inspection.shapes import META, ShapeRun, in_shape
from got_core.model import PARTS, GoTModel
from got_core.types import Guidance, Sample

STAGES: Mapping[str, Sequence[str]] = {
    "read": ("reasoner",),
    "guide": ("guidance", "codec"),
    "denoise": ("backbone",),
    "decode": ("codec",),
}
"""The stages of generating an image, with the components that compute in each."""

DEVICES = (8, 12, 16, 24, 80)
"""GB of the devices for which a setting is named."""

ROOM = 0.92
"""Fraction of a device's memory that tensors may take; the rest goes to the runtime and to fragments."""

GIGA = 1e9


@dataclass(frozen=True)
class InferenceMemory:
    """Bytes that generating an image takes.

    Attributes:
        weights: By component, of `PARTS`.
        layer: Of the largest module that has weights of its own.
        activations: By stage, of `STAGES`, the most at a time.
    """

    weights: Mapping[str, int]
    layer: int
    activations: Mapping[str, int]

    def stages(self, offload: str | None = None) -> dict[str, int]:
        """Return the most bytes on the device in each stage.

        Args:
            offload: None with all weights on the device, "model" or "layer" as of `got generate --offload`.
        """
        kept = {
            stage: sum(self.weights.values()) if offload is None else sum(self.weights[part] for part in parts)
            for stage, parts in STAGES.items()
        }
        return {
            stage: self.activations[stage] + (min(self.layer, own) if offload == "layer" else own)
            for stage, own in kept.items()
        }

    def peak(self, offload: str | None = None) -> int:
        """Return the most bytes on the device at a time."""
        return max(self.stages(offload).values())


@torch.no_grad()
def inference_memory(model: GoTModel, samples: Sequence[Sample], on_cpu: bool = False) -> InferenceMemory:
    """Trace generating images, whose chains are given, in shape alone.

    A chain that is written takes less than one that is read, as its tokens follow each other.

    Args:
        model: Built, with weights or in shape alone; weights count in the precision that they have.
        samples: Generated as one batch.
        on_cpu: Whether it runs on a CPU, where fewer images are encoded at a time than on an accelerator.
    """
    run = ShapeRun()
    peaks: dict[str, int] = {}

    def begin(index: int) -> int:
        run.stage = index
        run.peaks[index] = run.live
        return run.live

    with in_shape(model):
        own = model.processor(samples)
        moved = on_meta(own, torch.float32)
        reading = replace(moved, source=own.source)  # Ids follow the device of sources, and lengths follow from ids.
        batch = reading if on_cpu else moved
        scales = model.editing_scales if bool(batch.has_source.any()) else model.generation_scales
        parts = branches(
            scales,
            len(samples),
            batch.has_source.device,
            model.guidance.spatial_channels is not None,
            model.guidance.reference_channels is not None,
        )
        with run:
            begin(0)
            reasoning = model.read(reading, batch.chains)
            begin(1)
            guidance = model.guidance(reasoning, batch, model.codec)
            begin(2)
            rows = len(parts) * len(samples)
            weight = next(model.backbone.parameters())
            stacked = Guidance.cat([guidance] * len(parts)).map(lambda value: value.to(weight.dtype))
            noise = torch.empty(len(samples), *model.latent_shape(batch.size), device=META)
            noisy = torch.empty(rows, *noise.shape[1:], device=META, dtype=weight.dtype)
            model.backbone(noisy, torch.ones(rows, device=META), stacked)
            del noisy, stacked
            begin(3)
            model.decode(noise)
        peaks = {stage: run.peaks[index] for index, stage in enumerate(STAGES)}
    weights = {name: size_of(getattr(model, name)) for name in PARTS}
    layer = max(size_of(module, recurse=False) for module in model.modules())
    return InferenceMemory(weights, layer, peaks)


def size_of(module: nn.Module, recurse: bool = True) -> int:
    """Return the bytes of a module's parameters and buffers, shared ones once."""
    tensors: dict[int, Tensor] = {
        id(tensor): tensor for tensor in (*module.parameters(recurse=recurse), *module.buffers(recurse=recurse))
    }
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def inference_report(model: GoTModel, size: tuple[int, int], dtype: torch.dtype, edit: bool) -> Iterator[Table | str]:
    """Yield what generating an image takes, in a table and in sentences.

    Args:
        model: In shape alone; its weights are converted, and its codec is set to tiles.
        size: (height, width) in pixels.
        dtype: Of all weights but the codec's.
        edit: Whether an image is edited.

    Raises:
        ValueError: The model cannot generate images of this size.
    """
    model.check_size(size)
    model.eval().merge_adapters()
    model.convert(dtype, contents=False)
    samples = typical_samples(size, 1, edit)
    memories = {"": inference_memory(model, samples)}
    try:
        model.codec.enable_tiling()
    except ValueError:
        pass  # It has no tiles.
    else:
        memories["--tiling"] = inference_memory(model, samples)
    settings = {
        " ".join(filter(None, (offload and f"--offload {offload}", tiling))): memory.stages(offload)
        for offload, (tiling, memory) in product((None, "model", "layer"), memories.items())
    }
    kind = "an edit" if edit else "an image"
    title = f"GB of {kind} of {size[0]}x{size[1]} pixels in {str(dtype).removeprefix('torch.')}"
    table = Table(title=title, title_justify="left")
    for heading in ("", *STAGES, "most"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, stages in settings.items():
        values = (*stages.values(), max(stages.values()))
        table.add_row(name or "all on the device", *(f"{value / GIGA:.2f}" for value in values))
    yield table
    for memory in DEVICES:
        fitting = (name for name, stages in settings.items() if max(stages.values()) <= ROOM * memory * GIGA)
        found = next(fitting, None)
        yield f"{memory} GB: " + ("too little" if found is None else found or "all on the device")
