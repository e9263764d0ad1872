"""A chain's own states as its summary, without image tokens."""

import torch
from reasoner_samples import small_samples

from got_core.testing import check_reasoner
from reasoners.qwen2_5_vl import spread


def test_spread_takes_each_or_an_even_choice():
    states = torch.arange(6.0)[None, :, None]
    chosen = torch.tensor([[False, True, True, False, True, False]])  # states 1, 2 and 4
    assert spread(states, chosen, 3)[0, :, 0].tolist() == [1, 2, 4]
    assert spread(states, chosen, 6)[0, :, 0].tolist() == [1, 1, 2, 2, 4, 4]
    assert spread(states, chosen, 2)[0, :, 0].tolist() == [1, 2]
    assert spread(states, chosen, 5)[0, :, 0].tolist() == [1, 1, 2, 2, 4]


def test_spread_keeps_rows_apart():
    states = torch.arange(8.0).reshape(2, 4, 1)
    chosen = torch.tensor([[True, False, False, False], [False, False, True, True]])
    assert spread(states, chosen, 2)[:, :, 0].tolist() == [[0, 0], [6, 7]]


def test_the_chain_as_summary_keeps_the_contract(build):
    samples = small_samples(3, edits=(1,))
    check_reasoner(build(summary="chain", num_tokens=7), samples, max_new_tokens=8, rereads_itself=False)


def test_the_states_are_those_at_the_chain_and_its_end(build):
    reasoner = build(summary="chain", num_tokens=400).eval()
    batch = reasoner.processor(small_samples(2))
    states = reasoner(batch).states
    hidden = reasoner._read(batch.inputs)
    for row in range(2):
        own = hidden[row][batch.inputs["chain_mask"][row]]
        places = torch.arange(400) * len(own) // 400
        assert torch.equal(states[row], own[places])
        assert places.unique().tolist() == list(range(len(own)))
    assert not any("im_gen_0" in token for token in reasoner.processor.vocabulary.tokenizer.get_vocab())


@torch.no_grad()
def test_what_is_written_is_summed_up_as_if_it_were_read(build):
    reasoner = build(summary="chain", num_tokens=5).eval()
    batch = reasoner.processor(small_samples(3, edits=(2,)))
    rows, states = reasoner.write(batch.inputs, 3.0, 9, torch.Generator().manual_seed(5))
    assert len({len(row) for row in rows}) > 1
    prompts = [
        ids[:length].tolist()
        for ids, length in zip(batch.inputs["input_ids"], batch.inputs["prompt_length"], strict=True)
    ]
    inputs = {**batch.inputs, **reasoner.processor.sequences(prompts, rows)}
    torch.testing.assert_close(states, reasoner._summary(reasoner._read(inputs), inputs), atol=1e-5, rtol=1e-5)


def test_an_empty_chain_is_summed_up_by_its_end(build):
    reasoner = build(summary="chain", num_tokens=3).eval()
    batch = reasoner.processor(small_samples(2))
    states = reasoner.summarize(batch, ["", ""]).states
    torch.testing.assert_close(states[:, 0], states[:, 2])
