"""The scorer that all suites share, with items and scores of its own."""

import pytest
import torch
from evaluation_runs import quiet_trainer

from got_core.evaluation.scoring import Items, ItemScoring, ScoreCache, ScoreTable


def test_a_table_holds_each_items_scores_once():
    one, two = ScoreTable(3, ("a", "b")), ScoreTable(3, ("a", "b"))
    one.update(torch.tensor([0, 2]), torch.tensor([[1.0, torch.nan], [-3.0, 0.0]]))
    one.update(torch.tensor([0]), torch.tensor([[torch.nan, 5.0]]))
    two.update(torch.tensor([2]), torch.tensor([[-3.0, 0.0]]))
    (reduction,) = one._reductions.values()
    one.values = reduction(torch.stack([one.values, two.values]))
    expected = torch.tensor([[1.0, 5.0], [torch.nan, torch.nan], [-3.0, 0.0]])
    torch.testing.assert_close(one.compute(), expected, equal_nan=True)
    with pytest.raises(ValueError, match="finite or NaN"):
        one.update(torch.tensor([1]), torch.tensor([[torch.inf, 0.0]]))


class Words(Items):
    """Words to count the letters of; an empty one cannot be read."""

    def __init__(self, words):
        self.words = words

    def __len__(self):
        return len(self.words)

    def __getitem__(self, index):
        if not self.words[index]:
            raise ValueError("an empty word")
        return self.words[index]

    def content(self, index):
        return self.words[index].encode(), "letters"


class Letters(ItemScoring):
    """Counts letters and remembers what it has scored; doubts words with an x, and skips those with a y."""

    def __init__(self, words, folder):
        super().__init__(Words(words), ("letters", "vowels"), 2, cache=ScoreCache(folder, {"kind": "letters"}))
        self.scored = []

    def score(self, batch):
        for index, word in batch.items():
            if "y" in word:
                continue
            self.scored.append(word)
            self.record(index, {"letters": len(word), "first": word[0]})
            if "x" in word:
                self.remark(index, "it has an x")


def letters(words, folder):
    scoring = Letters(words, folder)
    quiet_trainer().test(scoring, verbose=False)
    return scoring


def test_scores_details_and_remarks_come_from_items_and_from_the_cache(tmp_path):
    words = ["one", "", "six", "three", "one"]
    first = letters(words, tmp_path)
    again = letters(words, tmp_path)
    expected = torch.tensor([[3.0, torch.nan], [torch.nan] * 2, [3.0, torch.nan], [5.0, torch.nan], [3.0, torch.nan]])
    for scoring in (first, again):
        torch.testing.assert_close(scoring.scores, expected, equal_nan=True)
        assert scoring.remarks == {1: "an empty word", 2: "it has an x"}
        assert scoring.details == {0: {"first": "o"}, 1: {}, 2: {"first": "s"}, 3: {"first": "t"}, 4: {"first": "o"}}
    assert again.scored == ["six"], "what could not be found out of it may be found out now"


def test_an_item_that_was_not_scored_is_no_result(tmp_path):
    with pytest.raises(ValueError, match="1 of 3 items were not scored"):
        letters(["one", "yes", "no"], tmp_path)
