"""A judge's answers, one file an edit, so that a run that was ended can go on and nothing is paid for twice."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from got_core.evaluation.chat_judge import QUESTION, Answer, ChatJudge
from got_core.evaluation.provenance import write_whole
from got_core.pictures import to_picture


class SavedAnswers:
    """Asks a judge what it has not been asked yet about the same images in the same words.

    Args:
        judge: Whom to ask.
        folder: Gets the answers, `NAME.json`.
    """

    def __init__(self, judge: ChatJudge, folder: Path) -> None:
        self.judge, self.folder = judge, folder

    def __call__(
        self, name: str, instruction: str, source: Float[Tensor, "3 h w"], output: Float[Tensor, "3 H W"]
    ) -> Answer:
        """The scores of an edit, images in [-1, 1].

        Raises:
            JudgeError, UserError: See `ChatJudge`.
        """
        asked = self._asked(instruction, source, output)
        file = self.folder / f"{name}.json"
        if file.is_file():
            saved = json.loads(file.read_text(encoding="utf-8"))
            if saved["asked"] == asked:
                return Answer(**saved["answer"])
        answer = self.judge(instruction, source, output)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({"asked": asked, "answer": asdict(answer)}, indent=1) + "\n")
        return answer

    def _asked(
        self, instruction: str, source: Float[Tensor, "3 h w"], output: Float[Tensor, "3 H W"]
    ) -> dict[str, str]:
        digest = hashlib.sha256(QUESTION.encode())
        for image in (source, output):
            digest.update(str(tuple(image.shape)).encode() + to_picture(image).tobytes())
        parts = {"url": self.judge.url, "model": self.judge.model, "instruction": instruction}
        return {**parts, "question and images": digest.hexdigest()}
