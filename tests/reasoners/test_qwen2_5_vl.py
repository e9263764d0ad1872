"""The Qwen2.5-VL reasoner against the library's own forward pass and decoding."""

import pytest
import torch
from reasoner_samples import small_samples
from torch.nn import functional

from got_core.types import Sample

EXACT = {"atol": 1e-5, "rtol": 0}


def library_inputs(reasoner, inputs, has_image):
    """The same sequences as the library's forward takes them, positions left to itself."""
    ids = inputs["input_ids"]
    images = {"pixel_values": inputs["pixel_values"], "image_grid_thw": inputs["image_grid_thw"]} if has_image else {}
    kinds = (ids == reasoner.processor.vocabulary.image_pad).int()
    return {"input_ids": ids, "mm_token_type_ids": kinds, "attention_mask": torch.ones_like(ids), **images}


@pytest.mark.parametrize("edits", [(), (0, 2)])
@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_states_equal_the_librarys_full_forward(build, edits, tied):
    reasoner = build(tied=tied)
    batch = reasoner.processor(small_samples(4, edits))
    labels = batch.inputs["input_ids"].masked_fill(~batch.inputs["chain_mask"], -100)
    output = reasoner.qwen(
        **library_inputs(reasoner, batch.inputs, bool(edits)), labels=labels, output_hidden_states=True
    )
    got = reasoner(batch)
    torch.testing.assert_close(got.loss, output.loss, **EXACT)
    places = batch.inputs["summary_mask"]
    for row in range(4):
        torch.testing.assert_close(got.states[row], output.hidden_states[-1][row][places[row]], **EXACT)
    assert got.states.shape == (4, reasoner.num_tokens, reasoner.dim)


@pytest.mark.parametrize("groups", [2, 3, 9])
def test_reading_in_groups_of_similar_length_changes_nothing(build, groups):
    reasoner = build()
    batch = reasoner.processor(small_samples(5, edits=(0, 3)))
    expected = reasoner(batch)
    reasoner.length_groups = groups
    got = reasoner(batch)
    torch.testing.assert_close(got.states, expected.states, **EXACT)
    torch.testing.assert_close(got.loss, expected.loss, **EXACT)


def test_states_see_prompt_image_and_chain_and_nothing_of_the_neighbours(build):
    reasoner = build().eval()
    samples = small_samples(3, edits=(0,))
    states = reasoner(reasoner.processor(samples)).states
    alone = reasoner(reasoner.processor(samples[:1])).states
    torch.testing.assert_close(states[:1], alone, **EXACT)
    other = Sample(samples[0].prompt, samples[0].chain, samples[0].size, source=-samples[0].source)
    assert (reasoner(reasoner.processor([other])).states - alone).abs().max() > 1e-3


@pytest.mark.parametrize("edits", [(), (1, 4), (0, 1, 2, 3, 4, 5)])
@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_states_from_the_cache_equal_a_full_forward(build, edits, temperature):
    reasoner = build().eval()
    few = reasoner.processor.vocabulary.writable[:12] + reasoner.processor.vocabulary.stops
    reasoner._unwritable = torch.ones_like(reasoner._unwritable).index_fill(0, torch.tensor(few), False)
    batch = reasoner.processor(small_samples(6, edits))
    rows, states = reasoner.write(batch.inputs, temperature, 12, torch.Generator().manual_seed(1))
    prompts = [
        row[:length].tolist()
        for row, length in zip(batch.inputs["input_ids"], batch.inputs["prompt_length"], strict=True)
    ]
    inputs = {**batch.inputs, **reasoner.processor.sequences(prompts, rows)}
    torch.testing.assert_close(states, reasoner._summary(reasoner._read(inputs), inputs), **EXACT)
    assert len({len(prompt) for prompt in prompts}) > 1
    assert temperature == 0 or len({len(row) for row in rows}) > 2


@pytest.mark.parametrize("edits", [(), (0, 2)])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_chains_equal_the_librarys(build, edits, penalty):
    reasoner = build(repetition_penalty=penalty).eval()
    samples = small_samples(4, edits)
    rows, _ = reasoner.write(reasoner.processor(samples).inputs, 0.0, 10, None)
    for sample, row in zip(samples, rows, strict=True):
        inputs = reasoner.processor([sample]).inputs
        inputs = {**inputs, "input_ids": inputs["input_ids"][:, : int(inputs["prompt_length"])]}
        expected = reasoner.qwen.generate(
            **library_inputs(reasoner, inputs, sample.source is not None),
            do_sample=False,
            repetition_penalty=penalty,
            max_new_tokens=10,
            suppress_tokens=torch.nonzero(reasoner._unwritable).flatten().tolist(),
            eos_token_id=reasoner.processor.vocabulary.stops,
            pad_token_id=reasoner.processor.vocabulary.padding,
        )[0, inputs["input_ids"].shape[1] :]
        stopped = [token for token in expected.tolist() if token not in reasoner.processor.vocabulary.stops]
        assert row == stopped


def test_it_learns_its_chains_and_writes_them_back(build):
    reasoner = build()
    samples = small_samples(4, edits=(1,), seed=3)
    samples[3] = Sample("a green circle", samples[3].chain, samples[3].size)
    batch = reasoner.processor(samples)
    optimizer = torch.optim.AdamW(reasoner.parameters(), lr=5e-3)
    first = reasoner(batch).loss.item()
    for _ in range(80):
        optimizer.zero_grad()
        loss = reasoner(batch).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05 * first
    reasoner.eval()
    unseen = reasoner.processor([Sample(s.prompt, "", s.size, source=s.source) for s in samples])
    written = reasoner.generate(unseen, max_new_tokens=120)
    assert written.chains == batch.chains
    assert written.loss is None
    torch.testing.assert_close(written.states, reasoner.summarize(unseen, written.chains).states, **EXACT)
    torch.testing.assert_close(written.states, reasoner(batch).states, **EXACT)


def test_summaries_follow_the_chain_they_are_given(build):
    reasoner = build().eval()
    batch = reasoner.processor(small_samples(2, edits=(0,)))
    given = reasoner.summarize(batch, ["a red circle", batch.chains[1]])
    assert given.chains == ("a red circle", batch.chains[1])
    change = (given.states - reasoner(batch).states).abs().amax(dim=(1, 2))
    assert change[0] > 1e-3
    assert change[1] < 1e-5


def test_sampling_depends_on_the_generator_alone(build):
    reasoner = build().eval()
    batch = reasoner.processor(small_samples(3))

    def chains(seed):
        generator = torch.Generator().manual_seed(seed)
        return reasoner.generate(batch, temperature=1.0, max_new_tokens=8, generator=generator).chains

    first = chains(0)
    torch.manual_seed(99)
    assert chains(0) == first
    assert chains(1) != first


def test_no_chain_at_all_still_has_states(build):
    reasoner = build().eval()
    batch = reasoner.processor(small_samples(2))
    silent = reasoner.generate(batch, max_new_tokens=0)
    assert silent.chains == ("", "")
    torch.testing.assert_close(silent.states, reasoner.summarize(batch, ["", ""]).states, **EXACT)


def test_without_images_the_vision_tower_still_gets_gradients_of_zero(build):
    reasoner = build()
    reasoner(reasoner.processor(small_samples(2))).loss.backward()
    gradients = [parameter.grad for parameter in reasoner.qwen.model.visual.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
    assert all(parameter.grad is not None for parameter in reasoner.parameters())


def test_the_blocks_are_vision_then_decoder(build):
    kinds = [type(block).__name__ for block in build().blocks()]
    assert kinds == ["Qwen2_5_VLVisionBlock"] * 2 + ["Qwen2_5_VLDecoderLayer"] * 2


def test_the_chain_loss_is_a_mean_over_tokens_not_over_rows(build):
    reasoner = build()
    samples = small_samples(3)
    losses, counts = [], []
    for sample in samples:
        batch = reasoner.processor([sample])
        losses.append(reasoner(batch).loss)
        counts.append(batch.inputs["chain_mask"].sum())
    weights = functional.normalize(torch.stack(counts).float(), p=1, dim=0)
    torch.testing.assert_close(reasoner(reasoner.processor(samples)).loss, torch.stack(losses) @ weights, **EXACT)
