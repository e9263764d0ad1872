"""SDXL's UNet under semantic, spatial and reference guidance."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from jaxtyping import Float
from torch import Tensor, nn

from got_core.interfaces import DenoisingBackbone
from got_core.types import Guidance
from got_core.weights.loading import build_diffusers

TIME_IDS = 6
"""SDXL's micro-conditioning: original size, crop corner, target size, each as (height, width)."""


class SDXLUNet(DenoisingBackbone):
    """A diffusers UNet of SDXL's kind and any size, as GoT uses it (section 4.2).

    The tokens replace the text embeddings in cross-attention, the pooled vector the pooled text embedding. Reference
    and spatial latents are concatenated to the noisy latent, [noisy | reference | spatial]; the weights of `conv_in`
    for the new channels start at zero, so the UNet's function does not change at first.

    Args:
        pretrained: Folder or hub id in diffusers' layout, in one file or sharded; give this or `config`.
        subfolder: Folder inside `pretrained`, such as "unet" in that of a whole pipeline.
        config: Arguments of `UNet2DConditionModel`, with `addition_embed_type: text_time`.
        spatial_channels, reference_channels: Channels of that guidance, or None for no such guidance.
        downsample: Image pixels per latent pixel along each side, for SDXL's conditioning on sizes.

    Raises:
        ValueError: Both or neither of `pretrained` and `config`, a UNet that is not of SDXL's kind, or weights that
            are not those of the folder's config, naming tensors.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        subfolder: str | None = None,
        config: dict[str, Any] | None = None,
        spatial_channels: int | None = None,
        reference_channels: int | None = None,
        downsample: int = 8,
    ):
        super().__init__()
        self._pretrained = pretrained is not None
        self.unet = build_diffusers(UNet2DConditionModel, pretrained, subfolder, config)
        settings = self.unet.config
        if settings.addition_embed_type != "text_time":
            kind = settings.addition_embed_type
            raise ValueError(f"SDXLUNet needs a UNet with addition_embed_type 'text_time', but this one has {kind!r}")
        self.latent_channels = settings.in_channels
        self.token_dim = settings.cross_attention_dim
        time_width = TIME_IDS * settings.addition_time_embed_dim
        self.pooled_dim = settings.projection_class_embeddings_input_dim - time_width
        if self.pooled_dim <= 0:
            total = settings.projection_class_embeddings_input_dim
            raise ValueError(
                f"projection_class_embeddings_input_dim {total} leaves no room for a pooled vector beside "
                f"{TIME_IDS} sizes of addition_time_embed_dim {settings.addition_time_embed_dim}"
            )
        self.spatial_channels = spatial_channels
        self.reference_channels = reference_channels
        self.downsample = downsample
        channels = self.latent_channels + (reference_channels or 0) + (spatial_channels or 0)
        self.unet.conv_in = inflated(self.unet.conv_in, channels)
        self.unet.register_to_config(in_channels=channels)

    def blocks(self) -> Iterable[nn.Module]:
        """Return the UNet's residual and transformer blocks.

        Its stages would be too large: SDXL's largest has 1.2 billion parameters.
        """
        return [block for block in self.unet.modules() if isinstance(block, ResnetBlock2D | BasicTransformerBlock)]

    def export(self, folder: Path) -> None:
        """Write the UNet, whose first convolution is the wide one, in diffusers' layout."""
        self.unet.save_pretrained(folder)

    def standalone(self, folder: Path) -> dict[str, Any]:
        """Write the UNet's configuration, with the original width, if it is not among the arguments."""
        if not self._pretrained:
            return {}
        widened = self.unet.config.in_channels
        self.unet.register_to_config(in_channels=self.latent_channels)
        self.unet.save_config(folder)
        self.unet.register_to_config(in_channels=widened)
        return {"pretrained": folder, "subfolder": None}

    def forward(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], guidance: Guidance
    ) -> Float[Tensor, "b c h w"]:
        """Predict noise or velocity from noisy latents at times t in 0 to 1000.

        Raises:
            ValueError: Guidance lacks a field that this backbone takes, or has another width.
        """
        self.check_guidance(guidance)
        used = ((guidance.reference, self.reference_channels), (guidance.spatial, self.spatial_channels))
        maps = [value for value, channels in used if value is not None and channels is not None]
        height, width = (side * self.downsample for side in x_t.shape[-2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], device=x_t.device, dtype=x_t.dtype)
        added = {"text_embeds": guidance.pooled, "time_ids": sizes.expand(len(x_t), TIME_IDS)}
        x = torch.cat([x_t, *maps], dim=1)
        return self.unet(x, t, guidance.tokens, added_cond_kwargs=added, return_dict=False)[0]


def inflated(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """Return the same convolution with more input channels, whose weights are zero."""
    wider = nn.utils.skip_init(
        nn.Conv2d,
        channels,
        conv.out_channels,
        kernel_size=conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        bias=conv.bias is not None,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    with torch.no_grad():
        wider.weight.zero_()
        wider.weight[:, : conv.in_channels] = conv.weight
        if conv.bias is not None and wider.bias is not None:
            wider.bias.copy_(conv.bias)
    return wider
