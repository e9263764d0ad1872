"""What training costs a reasoner: texts and questions, scored before and after, with paired differences."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from got_core.detection.loading import SCENES
from got_core.errors import UserError
from got_core.evaluation.generation import find_run
from got_core.evaluation.results import (
    SEED,
    Better,
    Item,
    Missing,
    Results,
    Summary,
    check_writable,
    origin,
)
from got_core.evaluation.scoring import Image, Items, ItemScoring, ScoreCache, evaluation_trainer, score_items
from got_core.evaluation.statistics import AGREE, FEWEST, SIGNIFICANT, holm, interval, p_value, resampled, stratum
from got_core.evaluation.suites.edit_datasets import image_bytes, load_rgb
from got_core.evaluation.suites.probes import (
    Probe,
    chance_accuracy,
    read_questions,
    read_texts,
    scene_chains,
    scene_questions,
)
from got_core.interfaces import Processor, Reasoner
from got_core.pipelines.saving import ModelFiles, open_model, trained_size
from got_core.types import Sample
from got_core.weights.files import checksum
from got_core.weights.loading import fingerprint, origins

BEFORE, AFTER = "before", "after"

RIGHT, NATS, TOKENS = "right", "nats", "tokens"
"""Scores: whether a question is answered correctly; the negative log-likelihood of a text or of the right answer; its
number of tokens."""

NO_IMAGE = (1, 1)
"""(height, width) of the empty image of a probe without one; nothing reads it."""


class ProbeImages(Items):
    """The images of probes, in [-1, 1]; None where a probe has none."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        self.probes = probes

    def __len__(self) -> int:
        return len(self.probes)

    def __getitem__(self, index: int) -> Image | None:
        image = self.probes[index].image
        return image if image is None or isinstance(image, Tensor) else load_rgb(image)

    def content(self, index: int) -> tuple[bytes, Any]:
        """Return the image's bytes, and the words."""
        probe = self.probes[index]
        words = [probe.prompt, probe.candidates, probe.right, probe.generation]
        if probe.image is None or isinstance(probe.image, Tensor):
            return b"" if probe.image is None else probe.image.numpy().tobytes(), words
        return image_bytes(probe.image), words


class UnderstandingScoring(ItemScoring):
    """Measures the likelihood of every text, and answers every question.

    The answer is the candidate of the highest mean log-likelihood a token, so that long answers are not at a
    disadvantage and models that write no sentences can be tested too.

    Args:
        reasoner: What is tested.
        probes: Texts and questions.
        num_workers: Processes that read images.
        cache: Where scores are cached.

    Raises:
        UserError: The reasoner cannot give the likelihood of a text.
    """

    def __init__(
        self, reasoner: Reasoner, probes: Sequence[Probe], num_workers: int = 0, cache: ScoreCache | None = None
    ) -> None:
        super().__init__(ProbeImages(probes), (RIGHT, NATS, TOKENS), 1, num_workers, cache)
        questions = reasoner.question_processor
        if questions is None:
            raise UserError(f"{type(reasoner).__name__} cannot be probed: it has no `question_processor`")
        self.reasoner = reasoner.eval()
        self.probes = probes
        self.processors: dict[bool, Processor] = {False: questions, True: reasoner.processor}

    @torch.no_grad()
    def score(self, batch: Mapping[int, Image | None]) -> None:
        """Score each probe, all its candidates at once."""
        for index, image in batch.items():
            probe = self.probes[index]
            size = NO_IMAGE if image is None else (image.shape[-2], image.shape[-1])
            samples = [Sample(probe.prompt, candidate, size, source=image) for candidate in probe.candidates]
            candidates = self.processors[probe.generation](samples).to(self.device)
            likelihood, tokens = self.reasoner.likelihood(candidates)
            if not likelihood.isfinite().all():
                self.remark(index, f"the reasoner gives it no likelihood ({likelihood.tolist()})")
                continue
            scores = {NATS: -float(likelihood[probe.right]), TOKENS: float(tokens[probe.right])}
            if len(samples) > 1:
                scores[RIGHT] = float(int((likelihood / tokens).argmax()) == probe.right)
            self.record(index, scores)


METRICS: dict[str, Better] = {
    "accuracy_before": "higher",
    "accuracy": "higher",
    "accuracy_difference": "higher",
    "chance_accuracy": None,
    "perplexity_before": "lower",
    "perplexity": "lower",
    "perplexity_ratio": "lower",
    RIGHT: "higher",
    NATS: "lower",
}
"""By category: accuracy of questions, with that of random guesses; perplexity of texts, exp of the nats a token, over
all tokens. Of each item, as `got compare` reads them: `right` and `nats` after training."""


def evaluate(options: Namespace) -> None:
    """Test a reasoner before and after its training, print what changed and write `results.json`.

    Raises:
        UserError: Options that do not fit, nothing to compare with, no probe, or a folder that cannot be written to.
    """
    if not (options.checkpoint and options.output and (options.prompts or options.texts)):
        raise UserError(
            "got evaluate understanding needs --checkpoint RUN, --output FOLDER, and --prompts scenes, "
            "--prompts QUESTIONS or --texts FILE"
        )
    files = find_run(options.checkpoint, options.trust_code)
    probes = _probes(options, files.recipe)
    trainer = evaluation_trainer(options)
    output = Path(options.output)
    check_writable(output)
    scorings, described = {}, {}
    for when, path in ((BEFORE, options.before), (AFTER, options.checkpoint)):
        reasoner, described[when] = _trained(path, options.trust_code) if path else _initial(files)
        cache = ScoreCache(output, described[when])
        scorings[when] = UnderstandingScoring(reasoner, probes, options.num_workers, cache)
        score_items(trainer, scorings[when], output)
    if trainer.is_global_zero:
        paths = {name: path for name in ("prompts", "texts") if (path := getattr(options, name)) not in (None, SCENES)}
        sums = {"checkpoint": described[AFTER]["weights"], "before": described[BEFORE]["weights"]}
        sums |= {name: checksum(Path(path)) for name, path in paths.items()}
        came = origin(files.run.folder, {}, sums, {"probes": options.seed or 0, "bootstrap": SEED})
        came |= {"before": options.before or "the weights that the recipe starts from", "recipe": files.recipe}
        results = replace(understanding_results(probes, scorings), origin=came)
        results.publish(output, f"understanding, {options.checkpoint}")


def _trained(path: str, trust_code: str | None) -> tuple[Reasoner, dict[str, Any]]:
    """The reasoner of a run, and its description."""
    files = find_run(path, trust_code)
    described = {"model": files.recipe.get("model"), "weights": checksum(files.weights)}
    return open_model(path, trust_code=trust_code).model.reasoner, described


def _initial(files: ModelFiles) -> tuple[Reasoner, dict[str, Any]]:
    """The reasoner as a run's recipe loads it, and its description; rows of added tokens follow from its seed."""
    with torch.random.fork_rng():
        torch.manual_seed(int(files.recipe.get("seed_everything") or 0))
        reasoner = files.settings().build().reasoner
    if not origins(reasoner, (name for name, _ in reasoner.named_parameters())):
        raise UserError(
            f"{files.run.folder}: its reasoner started from random weights; give --before RUN to compare with"
        )
    return reasoner, {"model": files.recipe.get("model"), "weights": fingerprint(reasoner)}


def _probes(options: Namespace, recipe: Mapping[str, Any]) -> list[Probe]:
    probes: list[Probe] = []
    seed = options.seed or 0
    if options.prompts == SCENES:
        size = options.size or trained_size(recipe)
        if size is None or size[0] != size[1]:
            raise UserError("scenes are square: give --size HEIGHTxWIDTH, such as 32x32")
        probes += scene_chains(options.number, size[0], seed)
        probes += scene_questions(options.number, size[0], seed)
    elif options.prompts:
        probes += read_questions(Path(options.prompts), options.number, seed)
    if options.texts:
        probes += read_texts(Path(options.texts), options.number)
    return probes


Columns = Mapping[str, Float[ndarray, " n"]]
"""The scores of some probes, by name."""


def understanding_results(probes: Sequence[Probe], scorings: Mapping[str, ItemScoring]) -> Results:
    """Return accuracies and perplexities by category, and what changed.

    Intervals are 95% bootstrap intervals over probes, None for fewer than `FEWEST` probes or where all agree (Wilson's
    then, of accuracies). Changes are paired and tested by random signs, corrected for the number of categories (Holm).

    Args:
        probes: What was scored.
        scorings: `BEFORE` and `AFTER` training.

    Raises:
        UserError: No probe could be read, or the two reasoners split texts into different tokens.
    """
    remarks = scorings[BEFORE].remarks | scorings[AFTER].remarks
    missing = [Missing(probes[index].name, text, probes[index].category) for index, text in sorted(remarks.items())]
    scored = [index for index in range(len(probes)) if index not in remarks]
    if not scored:
        raise UserError(f"none of {len(probes)} probes can be read ({missing[0].item}: {missing[0].reason})")
    tables = {when: scoring.scores.double().numpy() for when, scoring in scorings.items()}
    texts = [index for index in scored if len(probes[index].candidates) == 1]
    if (tables[BEFORE][texts] != tables[AFTER][texts])[:, 2].any():
        raise UserError("the two reasoners split texts into different tokens, so their perplexities do not compare")
    scores: dict[str, dict[str, Summary]] = {}
    changes: dict[str, Float[ndarray, " n"]] = {}
    for category in dict.fromkeys(probes[index].category for index in scored):
        own = [index for index in scored if probes[index].category == category]
        before, after = (dict(zip((RIGHT, NATS, TOKENS), tables[when][own].T, strict=True)) for when in (BEFORE, AFTER))
        if len(probes[own[0]].candidates) > 1:
            chance = Summary(chance_accuracy([probes[index] for index in own]), None, len(own))
            scores[category] = {**_accuracies(before, after), "chance_accuracy": chance}
            changes[category] = after[RIGHT] - before[RIGHT]
        else:
            scores[category] = _perplexities(before, after)
            changes[category] = after[NATS] - before[NATS]
    _test(scores, changes)
    sampled = sum(not probes[index].official for index in scored)
    note = f"{sampled} questions got their wrong answers from other questions: this is not their set's official score"
    items = [_item(probes[index], {when: tables[when][index] for when in tables}) for index in scored]
    counts = {"probes": len(scored), "missing": len(missing)}
    return Results("understanding", METRICS, items, scores, counts, missing, [note] if sampled else ())


def _item(probe: Probe, rows: Mapping[str, Float[ndarray, " 3"]]) -> Item:
    """Named after probe, question and answer, as probes of another seed have the same names."""
    columns = {when: dict(zip((RIGHT, NATS, TOKENS), row.tolist(), strict=True)) for when, row in rows.items()}
    known = {when: {name: value for name, value in own.items() if value == value} for when, own in columns.items()}
    scores = {name: known[AFTER][name] for name in (RIGHT, NATS) if name in known[AFTER]}
    key = f"{probe.name}: {probe.prompt} {probe.candidates[probe.right]}"
    return Item(key, probe.category, scores, details={"name": probe.name, "prompt": probe.prompt, **known})


def _accuracies(before: Columns, after: Columns) -> dict[str, Summary]:
    summaries = {}
    for name, column in (("accuracy_before", before), ("accuracy", after)):
        part = stratum(column[RIGHT].tolist(), [1.0] * len(column[RIGHT]), SEED)
        summaries[name] = Summary(part.mean, part.interval, part.items)
    difference = after[RIGHT] - before[RIGHT]
    return summaries | {"accuracy_difference": _mean(difference, np.ones(len(difference)))}


def _perplexities(before: Columns, after: Columns) -> dict[str, Summary]:
    rates = {
        "perplexity_before": before[NATS] / before[TOKENS],
        "perplexity": after[NATS] / after[TOKENS],
        "perplexity_ratio": (after[NATS] - before[NATS]) / before[TOKENS],
    }
    return {name: _exp(_mean(rate, before[TOKENS])) for name, rate in rates.items()}


def _mean(values: Float[ndarray, " n"], weights: Float[ndarray, " n"]) -> Summary:
    """The weighted mean with its interval."""
    varied = len(values) >= FEWEST and np.ptp(values) > AGREE
    ends = interval(resampled(values, weights, SEED)) if varied else None
    return Summary(float((values * weights).sum() / weights.sum()), ends, len(values))


def _exp(entry: Summary) -> Summary:
    ends = None if entry.interval is None else (float(np.exp(entry.interval[0])), float(np.exp(entry.interval[1])))
    return Summary(float(np.exp(entry.mean)), ends, entry.n)


def _test(scores: Mapping[str, dict[str, Summary]], changes: Mapping[str, Float[ndarray, " _"]]) -> None:
    """Add p-value and conclusion to the change of each category."""
    adjusted = holm([p_value([change], SEED) for change in changes.values()])
    for (category, change), value in zip(changes.items(), adjusted, strict=True):
        conclusion = "significant" if value < SIGNIFICANT else "not significant"
        conclusion = conclusion if len(change) >= FEWEST else "too few probes"
        name = next(name for name in ("accuracy_difference", "perplexity_ratio") if name in scores[category])
        extra = {"p_value": value, "conclusion": conclusion}
        scores[category][name] = replace(scores[category][name], extra=extra)
