"""A vision-language model behind an OpenAI-compatible endpoint judges edits: the lower of two scores (GoT, section 5).

It is shown source and output and gives two scores from 0 to 10: how far the instruction was followed, and how far all
else was kept (the semantic-consistency scores of VIEScore, arXiv 2312.14867). The edit's score is the lower one.
"""

import base64
import hashlib
import io
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import requests
from jaxtyping import Float
from requests.adapters import HTTPAdapter
from torch import Tensor
from urllib3.exceptions import ProtocolError, ReadTimeoutError
from urllib3.util import Retry

from got_core.errors import UserError
from got_core.types import to_pil
from got_core.weights.files import write_whole

HIGHEST = 10
"""The best score; 0 is the worst."""

BUSY = (408, 429, 500, 502, 503, 504)
"""HTTP statuses after which a request is repeated, each time later."""

REFUSED = (401, 403, 404)
"""HTTP statuses that are the same for every image."""

QUOTED = 120
"""Characters of an answer that an error message quotes."""

QUESTION = """You see two images. The second was made from the first by an editing program with this instruction:

{instruction}

Give two whole numbers from 0 to 10.
"followed": how far the second image shows what the instruction asks for. 0: nothing of it. 10: all of it.
"kept": how far the second image leaves alone what the instruction does not speak of. 0: it is another image. \
10: nothing else has changed.
Answer with JSON alone: {{"reason": "one short sentence", "followed": 0, "kept": 0}}"""


class JudgeError(Exception):
    """The judge gave no score for an edit; the text says why."""


@dataclass(frozen=True)
class Answer:
    """A judge's scores of an edit.

    Attributes:
        followed, kept: 0 to 10.
        reason: In the judge's words.
    """

    followed: float
    kept: float
    reason: str = ""

    @property
    def score(self) -> float:
        """The lower score, as a fraction of the best one."""
        return min(self.followed, self.kept) / HIGHEST


class ChatJudge:
    """Asks a model about edits; can be used from several threads.

    Args:
        url: Up to `/chat/completions`, such as http://localhost:8000/v1.
        model: Its name there.
        key_variable: Environment variable that holds the key; if it is not set, none is sent.
        timeout: Seconds to wait for an answer.
        retries: How often a request is repeated after a timeout or a status of `BUSY`.
        backoff: Seconds before the second repetition; doubled each time. A server's Retry-After is respected.
        attempts: How often the question is asked if the answer makes no sense.

    Raises:
        UserError: `url` is not an http or https address.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key_variable: str = "OPENAI_API_KEY",
        timeout: float = 120.0,
        retries: int = 5,
        backoff: float = 1.0,
        attempts: int = 3,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"{url}: the judge's address must begin with http:// or https://")
        self.url, self.model = url.rstrip("/"), model
        self.timeout, self.attempts = timeout, attempts
        retry = Retry(
            total=retries,
            status_forcelist=BUSY,
            allowed_methods=None,
            backoff_factor=backoff,
            raise_on_status=False,
        )
        self.session = requests.Session()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=retry))
        if key := os.environ.get(key_variable):
            self.session.headers["Authorization"] = f"Bearer {key}"

    def __call__(self, instruction: str, source: Float[Tensor, "3 h w"], output: Float[Tensor, "3 H W"]) -> Answer:
        """Return the scores of an edit, images in [-1, 1].

        Raises:
            JudgeError: No answer in time, or none that makes sense after all attempts.
            UserError: The endpoint cannot be reached, or refuses every question.
        """
        content: list[dict[str, Any]] = [{"type": "text", "text": QUESTION.format(instruction=instruction)}]
        content += [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in (source, output)]
        problems = []
        for attempt in range(self.attempts):
            try:
                return read_answer(self._ask(content, certain=attempt == 0))
            except ValueError as error:
                problems.append(str(error))
        raise JudgeError(f"no sensible answer in {self.attempts} attempts: {problems[-1]}")

    def _ask(self, content: list[dict[str, Any]], certain: bool) -> str:
        """The text of one answer; `certain` requests temperature 0, which not every model allows."""
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": content}]}
        body |= {"temperature": 0} if certain else {}
        try:
            response = self.session.post(f"{self.url}/chat/completions", json=body, timeout=self.timeout)
        except requests.ConnectionError as error:
            reason = getattr(error.args[0], "reason", error.args[0])
            if isinstance(reason, ReadTimeoutError):
                raise JudgeError(f"no answer in {self.timeout:g} s") from error
            if isinstance(reason, ProtocolError):
                raise JudgeError("the connection was broken off") from error
            raise UserError(f"{self.url}: the judge cannot be reached ({type(error).__name__})") from error
        except requests.RequestException as error:
            raise JudgeError(f"no answer ({type(error).__name__})") from error
        if response.status_code in REFUSED:
            raise UserError(f"{self.url}: the judge answers {response.status_code} ({response.text[:QUOTED]!r})")
        if response.status_code in BUSY:
            raise JudgeError(f"HTTP status {response.status_code}")
        if not response.ok:
            raise ValueError(f"HTTP status {response.status_code} ({response.text[:QUOTED]!r})")
        try:
            text = response.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            raise ValueError(f"no chat completion: {response.text[:QUOTED]!r}") from None
        if not isinstance(text, str):
            raise ValueError(f"no words: {text!r}")
        return text


def read_answer(text: str) -> Answer:
    """Return the scores in a judge's text: the last JSON object with `followed` and `kept`.

    Raises:
        ValueError: There is none, or a score is not a number from 0 to 10.
    """
    decoder = json.JSONDecoder()
    answer: dict[str, Any] | None = None
    for start in (index for index, letter in enumerate(text) if letter == "{"):
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and {"followed", "kept"} <= value.keys():
            answer = value
    if answer is None:
        raise ValueError(f"no scores in {text[:QUOTED]!r}")
    scores = [answer["followed"], answer["kept"]]
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= HIGHEST:
            raise ValueError(f"{score!r} is not a score from 0 to {HIGHEST}")
    return Answer(float(scores[0]), float(scores[1]), str(answer.get("reason", "")))


def data_url(image: Float[Tensor, "3 H W"]) -> str:
    """Return an image in [-1, 1] as a data URL of a PNG."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


class SavedAnswers:
    """Asks a judge only what it was not asked before about the same images in the same words.

    Args:
        judge: The judge.
        folder: Where answers are saved, as `NAME.json`.
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
        question = self._question(instruction, source, output)
        file = self.folder / f"{name}.json"
        if file.is_file():
            saved = json.loads(file.read_text(encoding="utf-8"))
            if saved["question"] == question:
                return Answer(**saved["answer"])
        answer = self.judge(instruction, source, output)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({"question": question, "answer": asdict(answer)}, indent=1) + "\n")
        return answer

    def _question(
        self, instruction: str, source: Float[Tensor, "3 h w"], output: Float[Tensor, "3 H W"]
    ) -> dict[str, str]:
        digest = hashlib.sha256(QUESTION.encode())
        for image in (source, output):
            digest.update(str(tuple(image.shape)).encode() + to_pil(image).tobytes())
        parts = {"url": self.judge.url, "model": self.judge.model, "instruction": instruction}
        return {**parts, "question and images": digest.hexdigest()}
