"""What libraries say on the terminal that tells a user nothing."""

import logging
import warnings

_LOGGERS = ("lightning.pytorch", "lightning.fabric")

_EXPECTED_WARNINGS = (
    ".*does not have many workers.*",
    ".*in eval mode at the start of training.*",  # the codec is frozen
    ".*WeightAveraging callback, but loading.*",  # a checkpoint's weights are the averaged ones
    ".*WeightAveraging callback with a model that overrides.*",  # sharded models are refused
    ".*returned a view tensor.*",  # of sharded modules; nothing is changed in place
    ".*isinstance.treespec, LeafSpec.*",
    ".*is_gradient_checkpointing. is deprecated.*",  # read by peft
    ".*predict returned None.*",  # what is drawn is written to files
    ".*local rank has zero.*",  # there are fewer images than ranks
)


def hide_expected() -> None:
    """Leave out what Lightning says of the machine and of seeds, and expected warnings; those that matter stay.

    To be called once the libraries are imported, which set up their loggers then.
    """
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
