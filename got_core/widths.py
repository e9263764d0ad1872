"""Whether components fit each other."""

from got_core.interfaces import DenoisingBackbone, GuidanceEncoder, LatentCodec, Reasoner


def check_widths(
    reasoner: Reasoner, guidance: GuidanceEncoder, backbone: DenoisingBackbone, codec: LatentCodec
) -> None:
    """Hold the widths that components declare against each other.

    Raises:
        ValueError: The first pair that does not fit, naming both sides.
    """
    names = {part: type(module).__name__ for part, module in
             {"reasoner": reasoner, "guidance": guidance, "backbone": backbone, "codec": codec}.items()}  # fmt: skip
    if reasoner.dim != guidance.state_dim:
        raise ValueError(
            f"{names['reasoner']} makes states of width {reasoner.dim}, {names['guidance']} takes {guidance.state_dim}"
        )
    if codec.latent_channels != backbone.latent_channels:
        raise ValueError(
            f"{names['codec']} makes latents of {codec.latent_channels} channels, "
            f"{names['backbone']} takes {backbone.latent_channels}"
        )
    for field, what in {
        "token_dim": "tokens of width",
        "pooled_dim": "a pooled vector of width",
        "spatial_channels": "spatial latents of channels",
        "reference_channels": "reference latents of channels",
    }.items():
        made, taken = getattr(guidance, field), getattr(backbone, field)
        unread = field == "token_dim" and taken is None
        if made != taken and not unread:
            raise ValueError(
                f"{names['guidance']} makes {what} {made or 'none'}, {names['backbone']} takes {taken or 'none'}"
            )
