"""How well a reasoner understands, before and after training, with paired differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from rich.table import Table
from torch import Tensor

from got_core.errors import UserError
from got_core.evaluation.bootstrap import AGREE, FEWEST, Interval, interval, resampled, stratum
from got_core.evaluation.probes import Probe, chance
from got_core.evaluation.results_file import DIGITS, Better, Item, scored_items
from got_core.evaluation.significance import SIGNIFICANT, holm
from got_core.evaluation.significance import chance as by_chance
from got_core.evaluation.understanding_scoring import RIGHT, SPENT, TOKENS

SUITE = "understanding"
"""What results of this suite call it."""

BEFORE, AFTER = "before", "after"

FIGURES: dict[str, Better] = {RIGHT: "higher", SPENT: "lower"}
"""Of each probe, as `got compare` reads them: those of the reasoner after training."""

ACCURACY, PERPLEXITY = "accuracy", "perplexity"

CHANGE = {ACCURACY: "difference", PERPLEXITY: "ratio"}
"""What the change of each measure is called."""

Figures = Mapping[str, Float[Tensor, "probes three"]]
"""The figures of each probe, by `BEFORE` and `AFTER`."""

UNOFFICIAL = "{} questions got their wrong answers from other questions: this is not their set's official score"
"""Noted of questions that came without answers to choose from."""

ORDER = (RIGHT, SPENT, TOKENS)


def understanding_result(
    probes: Sequence[Probe], figures: Figures, missing: Mapping[str, str], seed: int = 0
) -> dict[str, Any]:
    """Accuracy of questions and perplexity of texts by category, differences, and every probe.

    Perplexity is exp of the nats a token, over all tokens of the category; its difference is given as a ratio.
    Intervals are 95% bootstrap intervals over probes, None for fewer than `FEWEST` probes or where all are alike
    (Wilson's then of accuracies). Whether a difference is significant is tested by flipping signs, corrected for the
    number of categories (Holm).

    Args:
        probes: What was asked.
        figures: What was found.
        missing: Probes that could not be read, with the reason.
        seed: Of the bootstrap.

    Raises:
        UserError: No probe could be read, or texts are of other tokens before than after.
    """
    columns = {
        when: {name: table[:, place].double().numpy() for place, name in enumerate(ORDER)}
        for when, table in figures.items()
    }
    read = ~np.any([np.isnan(column[SPENT]) for column in columns.values()], axis=0)
    if not read.any():
        name, reason = next(iter(missing.items()))
        raise UserError(f"none of {len(probes)} probes can be read ({name}: {reason})")
    texts = read & np.array([len(probe.candidates) == 1 for probe in probes])
    if (columns[BEFORE][TOKENS] != columns[AFTER][TOKENS])[texts].any():
        raise UserError("the two reasoners split texts into different tokens, so their perplexities do not compare")
    scores: dict[str, Any] = {}
    changes: dict[str, Float[ndarray, " n"]] = {}
    for category in dict.fromkeys(probe.category for probe in probes):
        rows = np.array([probe.category == category for probe in probes]) & read
        if not rows.any():
            continue
        chosen = [probe for probe, row in zip(probes, rows, strict=True) if row]
        kept = {when: {name: values[rows] for name, values in column.items()} for when, column in columns.items()}
        many = len(chosen[0].candidates) > 1
        found = _accuracies(kept, seed) if many else _perplexities(kept, seed)
        measured = {"measure": ACCURACY, "chance": round(chance(chosen), DIGITS)} if many else {"measure": PERPLEXITY}
        scores[category] = {**measured, "n": len(chosen), **found}
        changed = RIGHT if many else SPENT
        changes[category] = kept[AFTER][changed] - kept[BEFORE][changed]
    _test(scores, changes, seed)
    drawn = sum(not probe.official for probe, row in zip(probes, read, strict=True) if row)
    notes = [UNOFFICIAL.format(drawn)] if drawn else []
    items = [_item(probe, columns, place) for place, probe in enumerate(probes) if read[place]]
    return {
        **scored_items(SUITE, FIGURES, items),
        "counts": {"probes": len(items), "missing": len(missing)},
        "scores": scores,
        "missing": dict(missing),
        "notes": notes,
    }


def understanding_table(scores: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """Scores for people to read."""
    table = Table("category", "measure", title=title, title_justify="left")
    for heading in ("n", "chance", "before", "after", "difference", "95% interval", ""):
        table.add_column(heading, justify="right")
    for category, entry in scores.items():
        difference = entry[CHANGE[entry["measure"]]]
        cells = [*(_cell(entry[when]) for when in (BEFORE, AFTER)), f"{difference['mean']:.4f}"]
        cells += [_span(difference["interval"]), difference["verdict"]]
        measure = entry["measure"] + (", ratio" if entry["measure"] == PERPLEXITY else "")
        table.add_row(category, measure, str(entry["n"]), f"{entry['chance']:.3f}" if "chance" in entry else "", *cells)
    return table


def _span(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"


def _cell(found: Mapping[str, Any]) -> str:
    return f"{found['mean']:.4f}" + (f" ({_span(found['interval'])})" if found["interval"] else "")


def _item(probe: Probe, columns: Mapping[str, Mapping[str, Float[ndarray, " probes"]]], place: int) -> Item:
    """Named after place, question and answer, as probes of another seed have the same names."""
    found = {when: {name: float(values[place]) for name, values in column.items()} for when, column in columns.items()}
    known = {
        when: {name: round(value, DIGITS) for name, value in figures.items() if not np.isnan(value)}
        for when, figures in found.items()
    }
    key = f"{probe.name}: {probe.prompt} {probe.candidates[probe.right]}"
    scores = {name: known[AFTER][name] for name in FIGURES if name in known[AFTER]}
    return Item(key, probe.category, scores, {"name": probe.name, "prompt": probe.prompt, **known})


def _accuracies(kept: Mapping[str, Mapping[str, Float[ndarray, " n"]]], seed: int) -> dict[str, Any]:
    found = {}
    for when, column in kept.items():
        part = stratum(column[RIGHT].tolist(), [1.0] * len(column[RIGHT]), seed)
        found[when] = _rounded(part.mean, part.interval)
    change = kept[AFTER][RIGHT] - kept[BEFORE][RIGHT]
    return {**found, CHANGE[ACCURACY]: _rounded(*_estimate(change, np.ones(len(change)), seed))}


def _perplexities(kept: Mapping[str, Mapping[str, Float[ndarray, " n"]]], seed: int) -> dict[str, Any]:
    weights = kept[BEFORE][TOKENS]
    rates = {when: column[SPENT] / column[TOKENS] for when, column in kept.items()}
    rates[CHANGE[PERPLEXITY]] = rates[AFTER] - rates[BEFORE]
    return {name: _exponential(*_estimate(rate, weights, seed)) for name, rate in rates.items()}


def _estimate(values: Float[ndarray, " n"], weights: Float[ndarray, " n"], seed: int) -> tuple[float, Interval | None]:
    """The weighted mean with its interval."""
    told = len(values) >= FEWEST and np.ptp(values) > AGREE
    ends = interval(resampled(values, weights, seed)) if told else None
    return float((values * weights).sum() / weights.sum()), ends


def _exponential(mean: float, ends: Interval | None) -> dict[str, Any]:
    return _rounded(float(np.exp(mean)), None if ends is None else (float(np.exp(ends[0])), float(np.exp(ends[1]))))


def _rounded(mean: float, ends: Interval | None) -> dict[str, Any]:
    return {"mean": round(mean, DIGITS), "interval": None if ends is None else [round(end, DIGITS) for end in ends]}


def _test(scores: Mapping[str, Any], changes: Mapping[str, Float[ndarray, " _"]], seed: int) -> None:
    """Add to each category how likely its change is by chance, and what follows."""
    adjusted = holm([by_chance([change], seed) for change in changes.values()])
    for (category, change), value in zip(changes.items(), adjusted, strict=True):
        verdict = "significant" if value < SIGNIFICANT else "not significant"
        entry = scores[category][CHANGE[scores[category]["measure"]]]
        entry |= {"by_chance": round(value, DIGITS), "verdict": verdict if len(change) >= FEWEST else "too few probes"}
