"""What judges have said of files, written as it comes, so that an interrupted evaluation goes on where it was.

Beside `results.json` lie `verdicts-0.jsonl`, `verdicts-1.jsonl`, ..., one for each rank. A line holds a verdict under
the checksums of the judge's description, of the file's bytes and of what was asked of it: another judge, another image
or another question is judged again, and a file that was moved is not.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from got_core.evaluation.results_file import FROM

FILE = "verdicts-{}.jsonl"
"""Of a rank."""

Said = Mapping[str, Any]
"""A verdict, as JSON."""


def verdict_key(content: bytes, asked: Any) -> str:
    """Stands for a file's bytes and what is asked of it, which must fit into JSON."""
    question = json.dumps(asked, sort_keys=True)
    return hashlib.sha256(hashlib.sha256(content).digest() + question.encode()).hexdigest()


class VerdictStore:
    """Verdicts of one judge in a folder; each rank reads those of all, and adds to a file of its own.

    Args:
        folder: That of `results.json`.
        judge: The judge's description, thresholds and checksums of weights included.
        rank: Of this process.

    Attributes:
        known: Verdicts of this judge that were there when the store was opened, by `verdict_key`.
    """

    def __init__(self, folder: Path, judge: Mapping[str, Any], rank: int = 0) -> None:
        described = {name: value for name, value in judge.items() if name != FROM}
        self.judge = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        self.file = folder / FILE.format(rank)
        self.known: dict[str, Said] = {}
        for file in sorted(folder.glob(FILE.format("*"))):
            for line in file.read_text(encoding="utf-8").split("\n"):
                entry = _entry(line)
                if entry.get("judge") == self.judge:
                    self.known[entry["key"]] = entry["said"]
        self._begin_line()

    def add(self, key: str, said: Said) -> None:
        """Write down a verdict before anything else is judged."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"judge": self.judge, "key": key, "said": dict(said)}) + "\n")

    def _begin_line(self) -> None:
        """End a line that an interruption has left half written."""
        if self.file.exists() and self.file.read_bytes()[-1:] not in (b"", b"\n"):
            with self.file.open("a", encoding="utf-8") as file:
                file.write("\n")


def _entry(line: str) -> Mapping[str, Any]:
    """What a line holds; nothing where it was written only in part."""
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) and {"key", "said"} <= entry.keys() else {}
