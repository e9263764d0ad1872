"""No reader of weights or checkpoints runs what is pickled in a file."""

import json
import shutil

import pytest
import torch
from pickles import Touch
from torch import nn
from torch.distributed import checkpoint as distributed_checkpoint

from got_core.errors import UserError
from got_core.evaluation.metrics.fid_kid import InceptionFeatures
from got_core.evaluation.metrics.similarity import PerceptualDistance
from got_core.weights.checkpoints import check_fits, load_weights, read_tensors


def sharded(file):
    """Read the file as the only shard of an index."""
    index = file.with_name("model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": {"a": file.name}}))
    return read_tensors(index)


def beside_shards(file):
    """Read the file as what is no tensor in a distributed checkpoint."""
    folder = file.with_name("folder")
    distributed_checkpoint.save({"state_dict": {"a": torch.ones(1)}}, checkpoint_id=folder, no_dist=True)
    shutil.copy(file, folder / "meta.pt")
    check_fits(nn.Module(), folder)


READERS = {
    "check_fits": lambda file: check_fits(nn.Module(), file),
    "load_weights": lambda file: load_weights(nn.Module(), file),
    "distributed": beside_shards,
    "read_tensors": read_tensors,
    "sharded": sharded,
    "inception": InceptionFeatures.from_file,
    "perceptual": PerceptualDistance.from_file,
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "pickle"])
@pytest.mark.parametrize("reader", READERS)
def test_nothing_that_is_pickled_is_run(tmp_path, reader, zipped):
    marker, file = tmp_path / "marker", tmp_path / "weights.bin"
    content = {"state_dict": {"a": torch.ones(1)}, "global_step": 1, "a": torch.ones(1), "other": Touch(marker)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError):
        READERS[reader](file)
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists()
