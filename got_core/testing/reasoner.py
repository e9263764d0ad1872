"""The contract of a reasoner."""

import pickle
from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Generator, Tensor, nn

from got_core.inspection.costs import on_meta
from got_core.inspection.shapes import ShapeRun, in_shape
from got_core.interfaces import Reasoner
from got_core.testing.common import (
    check_attributes,
    check_blocks,
    check_gradients,
    check_state_dict,
    perturbed,
    require,
    same,
)
from got_core.types import Batch, Reasoning, Sample


def check_reasoner(
    reasoner: Reasoner, samples: Sequence[Sample], max_new_tokens: int = 32, rereads_itself: bool = True
) -> None:
    """Check a `Reasoner` on the CPU in float32.

    Args:
        reasoner: Any; a copy is used.
        samples: Two or more of one size, with different chains of different lengths; text-to-image and edits if the
            reasoner takes both, because a part that no sample uses gets no gradient.
        max_new_tokens: Longest chain that it may write.
        rereads_itself: Whether the states of `generate` must be those of `summarize` after the same text. An untrained
            reasoner may write what its tokenizer does not reproduce (broken bytes): use False for it.

    Raises:
        AssertionError: What does not hold: declared widths, a picklable processor without weights, shapes of states,
            chains and loss, the same result twice in eval mode, samples that do not depend on each other, states that
            depend on the chain but not on its origin, sampled chains that follow from each sample's own generator, a
            listener that is called with the chains as they grow, a chain cut at the maximum length, shapes on the meta
            device (`got inspect`), gradients to every trainable parameter, `blocks()`, state dict; and the likelihood
            of chains if the reasoner has one.
    """
    check_attributes(reasoner, ("dim", "num_tokens"))
    check_blocks(reasoner)
    batch = _check_processor(reasoner, samples)
    model = perturbed(reasoner, seed=0)
    with torch.no_grad():
        taught = model(batch)
        _check_reasoning(model, taught, batch, "forward")
        _check_forward(model, taught, batch, samples)
        _check_summaries(model, taught, batch)
    _check_generation(deepcopy(reasoner).eval(), batch, max_new_tokens, rereads_itself)
    _check_sampling(deepcopy(reasoner).eval(), samples, max_new_tokens)
    _check_likelihood(model, samples)
    _check_in_shape(deepcopy(reasoner), batch)
    taught = model(batch)
    check_gradients(model, [taught.states, _loss(model, taught)])
    check_state_dict(reasoner, lambda part: [part(batch).states])


def _name(reasoner: Reasoner) -> str:
    return type(reasoner).__name__


def _loss(reasoner: Reasoner, reasoning: Reasoning) -> Tensor:
    if reasoning.loss is None:
        raise AssertionError(f"{_name(reasoner)}.forward gives no chain loss")
    return reasoning.loss


def _check_processor(reasoner: Reasoner, samples: Sequence[Sample]) -> Batch:
    name = _name(reasoner)
    try:
        copy = pickle.loads(pickle.dumps(reasoner.processor))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise AssertionError(f"the processor of {name} cannot go to the loader's workers: {error}") from error
    weights = [part for part in vars(copy).values() if isinstance(part, nn.Module)] if hasattr(copy, "__dict__") else []
    require(not weights and not isinstance(copy, nn.Module), f"the processor of {name} holds weights")
    batch = reasoner.processor(samples)
    message = f"the processor of {name} changes the prompts or chains of the samples"
    require(batch.prompts == tuple(sample.prompt for sample in samples), message)
    require(batch.chains == tuple(sample.chain for sample in samples), message)
    other = copy(samples)
    inputs_agree = batch.inputs.keys() == other.inputs.keys() and all(
        torch.equal(value, other.inputs[key]) for key, value in batch.inputs.items()
    )
    require(inputs_agree, f"the processor of {name} gives other inputs after pickling")
    return batch


def _check_reasoning(reasoner: Reasoner, reasoning: Reasoning, batch: Batch, method: str) -> None:
    name, wanted = _name(reasoner), (len(batch), reasoner.num_tokens, reasoner.dim)
    actual = tuple(reasoning.states.shape)
    require(actual == wanted, f"{name}.{method} gives states of shape {actual}, but declares {wanted}")
    require(bool(reasoning.states.isfinite().all()), f"{name}.{method} gives states that are not finite")
    texts = isinstance(reasoning.chains, tuple) and all(isinstance(chain, str) for chain in reasoning.chains)
    require(texts and len(reasoning.chains) == len(batch), f"{name}.{method} does not give one chain for each sample")
    if method != "forward":
        require(reasoning.loss is None, f"{name}.{method} gives a loss; there is none without a taught chain")


def _check_forward(reasoner: Reasoner, taught: Reasoning, batch: Batch, samples: Sequence[Sample]) -> None:
    name, loss = _name(reasoner), _loss(reasoner, taught)
    require(loss.ndim == 0 and bool(loss.isfinite()), f"the chain loss of {name} is not one finite number")
    require(bool(loss > 0), f"the chain loss of {name} is not above 0 for a reasoner with perturbed weights")
    again = reasoner(batch)
    require(same(again.states, taught.states), f"{name} in eval mode gives two results for the same batch")
    for index, sample in enumerate(samples):
        alone = reasoner(reasoner.processor([sample])).states
        message = f"{name} gives other states for a sample when others share its batch"
        require(same(alone, taught.states[index : index + 1]), message)


def _check_summaries(reasoner: Reasoner, taught: Reasoning, batch: Batch) -> None:
    name, own = _name(reasoner), reasoner.summarize(batch, batch.chains)
    _check_reasoning(reasoner, own, batch, "summarize")
    message = f"{name}.summarize gives other states after the taught chains than forward does"
    require(same(own.states, taught.states), message)
    swapped = (*batch.chains[1:], batch.chains[0])
    other = reasoner.summarize(batch, swapped)
    require(other.chains == swapped, f"{name}.summarize does not return the chains it was given")
    require(not same(other.states, own.states), f"the states of {name} do not depend on the chain")


@torch.no_grad()
def _check_generation(reasoner: Reasoner, batch: Batch, max_new_tokens: int, rereads_itself: bool) -> None:
    name = _name(reasoner)
    greedy, again = (reasoner.generate(batch, max_new_tokens=max_new_tokens) for _ in range(2))
    sampled = [
        reasoner.generate(
            batch, temperature=1.0, max_new_tokens=max_new_tokens, generator=Generator().manual_seed(0)
        ).chains
        for _ in range(2)
    ]
    reread = reasoner.summarize(batch, greedy.chains) if rereads_itself else greedy
    _check_reasoning(reasoner, greedy, batch, "generate")
    require(greedy.chains == again.chains, f"{name}.generate at temperature 0 writes two chains for the same batch")
    require(sampled[0] == sampled[1], f"{name}.generate writes two chains for the same seed")
    message = f"the states of {name}.generate are not those of summarize after the chains it wrote"
    require(same(greedy.states, reread.states), message)


@torch.no_grad()
def _check_sampling(reasoner: Reasoner, samples: Sequence[Sample], max_new_tokens: int) -> None:
    """Check generation with one generator for each sample, a listener, and chains that are cut."""
    name, batch = _name(reasoner), reasoner.processor(samples)
    received: list[tuple[str, ...]] = []
    sampled = reasoner.generate(
        batch,
        temperature=1.0,
        max_new_tokens=max_new_tokens,
        generator=_generators(len(batch)),
        listener=received.append,
    )
    _check_reasoning(reasoner, sampled, batch, "generate")
    require(bool(received), f"{name}.generate calls no listener")
    require(received[-1] == sampled.chains, f"{name}.generate gives its listener other chains than it returns")
    for index, sample in enumerate(samples):
        alone = reasoner.generate(
            reasoner.processor([sample]),
            temperature=1.0,
            max_new_tokens=max_new_tokens,
            generator=_generators(len(batch))[index : index + 1],
        )
        message = f"{name}.generate samples another chain from a sample's own generator when others share its batch"
        require(alone.chains == sampled.chains[index : index + 1], message)
    for length in (1, 2):
        cut = reasoner.generate(batch, max_new_tokens=length)
        _check_reasoning(reasoner, cut, batch, "generate")


def _generators(number: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in range(number)]


@torch.no_grad()
def _check_likelihood(reasoner: Reasoner, samples: Sequence[Sample]) -> None:
    if reasoner.question_processor is None:
        return
    name = _name(reasoner)
    likelihood, tokens = reasoner.likelihood(reasoner.question_processor(samples))
    shapes = likelihood.shape == tokens.shape == (len(samples),)
    require(shapes, f"{name}.likelihood gives shapes {tuple(likelihood.shape)} and {tuple(tokens.shape)}")
    message = f"{name}.likelihood is not a finite number below 0 for each chain, with a number of tokens above 0"
    require(bool(((likelihood < 0) & likelihood.isfinite() & (tokens > 0)).all()), message)


def _check_in_shape(reasoner: Reasoner, batch: Batch) -> None:
    """Check a run as in `got inspect`: images and weights on the meta device, ids and masks real."""
    name = _name(reasoner)
    try:
        with in_shape(reasoner, torch.float32), ShapeRun():
            actual = tuple(reasoner(on_meta(batch, torch.float32)).states.shape)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise AssertionError(f"{name} cannot be run on the meta device, as got inspect does: {error}") from error
    wanted = (len(batch), reasoner.num_tokens, reasoner.dim)
    require(actual == wanted, f"{name} gives states of shape {actual} on the meta device, but declares {wanted}")
