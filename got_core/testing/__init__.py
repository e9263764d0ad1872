"""The contract that every component must pass; run it on your own classes.

    from got_core.testing import check_backbone
    check_backbone(MyBackbone(latent_channels=4, width=32))

Each check works on a copy, builds its own small inputs from what the component declares, and raises an AssertionError
that says what does not hold.
"""

from got_core.testing.backbone import check_backbone
from got_core.testing.dataset import check_dataset
from got_core.testing.diffusion import check_codec, check_objective
from got_core.testing.guidance import check_guidance_encoder
from got_core.testing.reasoner import check_reasoner

__all__ = [
    "check_backbone",
    "check_codec",
    "check_dataset",
    "check_guidance_encoder",
    "check_objective",
    "check_reasoner",
]
