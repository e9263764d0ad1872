"""Where weights come from, what is trained, and what is refused before any weight loads."""

from pathlib import Path

import pytest
import torch
from reasoner_samples import small_samples
from transformers import Qwen2_5_VLForConditionalGeneration

from reasoners.qwen2_5_vl import Qwen2_5_VLReasoner

EXACT = {"atol": 1e-6, "rtol": 0}


@pytest.fixture
def folder(build, tokenizer_file, tmp_path):
    """A small model as its makers would publish it: without the image tokens."""
    reasoner = build(num_tokens=1)
    reasoner.qwen.resize_token_embeddings(len(reasoner.processor.vocabulary) - 3)
    reasoner.qwen.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(Path(tokenizer_file).read_bytes())
    return tmp_path


@pytest.mark.parametrize("tied", [True, False])
def test_lora_trains_the_decoder_and_the_added_rows_only(build, tied):
    reasoner = build(tied=tied, tune="lora", lora_rank=4)
    trained = {name for name, parameter in reasoner.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(("language_model.layers" in name and "lora_" in name) or "trainable_tokens" in name for name in trained)
    output = reasoner(reasoner.processor(small_samples(2, edits=(0,))))
    (output.loss + output.states.sum()).backward()
    rows = [parameter for name, parameter in reasoner.named_parameters() if "trainable_tokens" in name]
    assert [row.shape for row in rows] == [(2 + 4, reasoner.dim)] * (1 if tied else 2)
    assert all(row.grad.abs().sum() > 0 for row in rows)


@pytest.mark.parametrize("tied", [True, False])
def test_lora_starts_as_the_model_it_adapts(build, tied):
    batch = build().processor(small_samples(3, edits=(0,)))
    plain, adapted = build(tied=tied).eval()(batch), build(tied=tied, tune="lora").eval()(batch)
    torch.testing.assert_close(adapted.states, plain.states, **EXACT)
    torch.testing.assert_close(adapted.loss, plain.loss, **EXACT)


def test_full_trains_everything_and_frozen_nothing(build):
    assert all(parameter.requires_grad for parameter in build(tune="full").parameters())
    assert not any(parameter.requires_grad for parameter in build(tune="frozen").parameters())


def test_a_folders_weights_are_kept_and_rows_are_added(build, folder):
    original = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    reasoner = build(config=None, pretrained=str(folder), tokenizer=None)
    vocabulary, old = reasoner.processor.vocabulary, original.get_input_embeddings().weight
    assert vocabulary.new == list(range(len(old), len(old) + 6))
    expected, got = original.state_dict(), reasoner.qwen.state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(got[name][: len(values)], values) for name, values in expected.items())
    added = got["model.language_model.embed_tokens.weight"][len(old) :]
    noise = added - old.mean(dim=0)
    assert added.unique(dim=0).shape[0] == 6
    assert noise.std().item() == pytest.approx(0.2, rel=0.2)


def test_rows_that_a_checkpoint_has_already_learned_are_kept(build, tmp_path):
    trained = build().eval()
    trained.qwen.save_pretrained(tmp_path)
    trained.processor.vocabulary.tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = build(config=None, pretrained=str(tmp_path), tokenizer=None).eval()
    batch = trained.processor(small_samples(2))
    torch.testing.assert_close(again(batch).states, trained(batch).states, **EXACT)


def test_spare_rows_of_a_large_matrix_are_used_first(build):
    config = {"text_config": {"hidden_size": 32, "vocab_size": 1000, "num_hidden_layers": 1, "num_attention_heads": 2}}
    tower = {"depth": 1, "hidden_size": 32, "num_heads": 2, "patch_size": 4}
    reasoner = build(config={**config, "vision_config": tower})
    assert reasoner.qwen.get_input_embeddings().num_embeddings == 1000
    written = reasoner.eval().write(reasoner.processor(small_samples(2)).inputs, 5.0, 20, torch.Generator())[0]
    assert max(token for row in written for token in row) < len(reasoner.processor.vocabulary)


def test_half_precision_weights(build):
    reasoner = build(dtype="bfloat16")
    output = reasoner(reasoner.processor(small_samples(2, edits=(0,))))
    assert output.states.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"pretrained": "somewhere"}, ValueError, "either `config` or `pretrained`"),
        ({"config": None}, ValueError, "either `config` or `pretrained`"),
        ({"tokenizer": None}, ValueError, "needs `tokenizer`"),
        ({"tokenizer": "missing/tokenizer.json"}, FileNotFoundError, "missing/tokenizer.json: no such file or folder"),
        (
            {"config": None, "pretrained": "/no/such/folder"},
            FileNotFoundError,
            "/no/such/folder: no such file or folder",
        ),
        ({"num_tokens": 0}, ValueError, "num_tokens must be 1 to 10,000"),
        ({"length_groups": 0}, ValueError, "length_groups must be 1 to 10,000"),
        ({"config": {"text_config": {"hiden_size": 32}}}, ValueError, "text_config has keys.*hiden_size"),
        ({"config": {"text_config": {"hidden_size": 24, "num_attention_heads": 2}}}, ValueError, "multiple of 16"),
        (
            {"config": {"text_config": {"hidden_size": 32}, "vision_config": {"out_hidden_size": 64}}},
            ValueError,
            "out_hidden_size 64 is not text_config.hidden_size 32",
        ),
    ],
)
def test_settings_are_refused_before_weights_load(build, values, error, message):
    with pytest.raises(error, match=message):
        build(**values)


def test_another_architecture_is_refused(build, tokenizer_file, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match=r"type llama, not qwen2_5_vl"):
        build(config=None, pretrained=str(tmp_path), tokenizer=tokenizer_file)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*tokenizer\.json"):
        Qwen2_5_VLReasoner(pretrained=str(tmp_path))
