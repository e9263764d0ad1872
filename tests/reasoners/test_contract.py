"""Qwen2.5-VL keeps the contract that every reasoner keeps."""

import pytest
from reasoner_samples import small_samples

from got_core.testing import check_reasoner


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_the_reasoner_keeps_the_contract(build, tune):
    values = {"lora_rank": 2, "lora_alpha": 2, "lora_dropout": 0.0} if tune == "lora" else {}
    check_reasoner(build(tune=tune, **values), small_samples(3, edits=(1,)), max_new_tokens=8, rereads_itself=False)
