"""The studio left running: what it refuses and why, what no address gives away, and how it bears a crowd."""

import json
import random
import threading
from dataclasses import replace

import httpx as http
import psutil
import pytest
from PIL import Image
from studio_server import data_url_of, served_studio

from got_core.studio.files import read_saved
from got_core.studio.server import check_message
from got_core.studio.session import Session
from got_core.studio.settings import Limits, Refused

SMALL = replace(Limits(), prompt=40, chain=400, boxes=3, steps=4, image_bytes=20_000, image_pixels=10_000)
PATHS = (
    "/gradio_api/file=/etc/passwd",
    "/file=/etc/passwd",
    "/gradio_api/file/etc/passwd",
    "/assets/../../../../../../etc/passwd",
    "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/gradio_api/upload",
    "/gradio_api/info",
    "/proc/self/environ",
    "/openapi.json",
    "/docs",
)
LOOKS_INSIDE = ("Traceback", "site-packages", 'File "/', "root:x:")


@pytest.fixture(scope="module")
def open_studio(gradio, plumbing):
    with served_studio(plumbing, SMALL) as studio:
        yield studio


@pytest.fixture
def client(open_studio):
    with http.Client(base_url=open_studio.url, timeout=60) as client:
        yield client


def test_no_address_reads_a_file_or_tells_of_the_server(client):
    for path in PATHS:
        for answer in (client.get(path), client.post(path, json={})):
            assert answer.status_code in (403, 404, 405), path
            assert not any(word in answer.text for word in LOOKS_INSIDE)
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "//" not in page.headers["content-security-policy"]


def test_what_is_too_large_is_refused(client):
    answer = client.post("/gradio_api/queue/join", content=b"x" * (SMALL.body + 1))
    assert answer.status_code == 413
    assert "larger than" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda s: s.ask("x" * 41, None, None), "the prompt has 41 characters; at most 40"),
        (lambda s: s.ask(7, None, None), "the prompt has to be text"),
        (lambda s: s.type_chain("x" * 401), "the plan has 401 characters; at most 400"),
        (lambda s: s.type_chain("a dog (1,2),(30,40) " * 4), "4 boxes"),
        (lambda s: read_saved(b"no picture", SMALL), "picture"),
        (lambda s: s.draw(None, None), "there is no plan to draw yet"),
    ],
)
def test_limits_are_said(plumbing, ask, words):
    with pytest.raises(Refused, match=words):
        ask(Session(plumbing, SMALL))


def test_a_picture_of_too_many_pixels_is_refused(plumbing, tmp_path):
    Image.new("RGB", (200, 200)).save(tmp_path / "large.png")
    with pytest.raises(Refused, match="pixels"):
        read_saved((tmp_path / "large.png").read_bytes(), SMALL)


def test_a_password_is_asked_for(gradio, plumbing):
    with served_studio(plumbing, SMALL, password="secret") as studio, http.Client(base_url=studio.url) as visitor:
        assert visitor.get("/config").status_code == 401
        assert visitor.post("/login", data={"username": "got", "password": "wrong"}).status_code == 400
        assert visitor.post("/login", data={"username": "got", "password": "secret"}).status_code == 200
        assert visitor.get("/config").status_code == 200


def nonsense(chance):
    """A value that a request may hold."""
    values = (None, True, -1, 1e308, "", "\ud7ff" * 9, "../../etc/passwd", [], {}, {"path": "/etc/passwd"}, "<b>" * 200)
    value = chance.choice(values)
    return [value, nonsense(chance)] if chance.random() < 0.2 else value


def fuzz(client, number):
    """So many requests of any kind; the numbers of their answers by status."""
    chance, seen = random.Random(0), {}
    picture = data_url_of(Image.new("RGB", (8, 8)))
    addresses = (
        "/gradio_api/run/predict",
        "/gradio_api/queue/join",
        "/gradio_api/reset",
        "/gradio_api/cancel",
        "/login",
    )
    for _ in range(number):
        data = [nonsense(chance) for _ in range(chance.randrange(12))]
        event = chance.choice(
            [None, {"action": "resize", "region": nonsense(chance)}, {"file": picture}, nonsense(chance)]
        )
        body = {"data": data, "fn_index": chance.choice([*range(16), nonsense(chance)]), "event_data": event}
        body["session_hash"] = chance.choice(["alpha", "beta", "", nonsense(chance)])
        text = json.dumps(body)
        if chance.random() < 0.1:
            text = text[: chance.randrange(len(text))]
        try:
            answer = client.post(chance.choice(addresses), content=text, headers={"content-type": "application/json"})
        except http.TransportError:
            seen["closed"] = seen.get("closed", 0) + 1
            continue
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
        assert not any(word in answer.text for word in LOOKS_INSIDE), text
    return seen


def test_nonsense_brings_no_traceback(client):
    assert sum(fuzz(client, 200).values()) == 200
    assert ask_event(client, "afterwards", "a circle")


@pytest.mark.slow
def test_ten_thousand_requests_bring_no_traceback(client):
    print(fuzz(client, 10_000))
    assert ask_event(client, "afterwards", "a circle")


def crowd(served, clients, each):
    """Have so many visitors draw as often; the pictures that came and the server's memory before and after, in MB."""
    memory = psutil.Process().memory_info
    drawn, before = [], memory().rss

    def visit(number):
        session = f"crowd{number}"
        with http.Client(base_url=served.url, timeout=300) as visitor:
            for turn in range(each):
                values = ask_event(visitor, session, f"a circle {turn}")
                drawn.append(values)

    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(clients)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    return drawn, before / 1e6, memory().rss / 1e6


def ask_event(visitor, session, prompt):
    """Ask for a picture through the queue; how the request ended."""
    config = visitor.get("/config").json()
    draw = next(each for each in config["dependencies"] if len(each["inputs"]) > 5)
    kinds = {each["id"]: each for each in config["components"]}
    data = [kinds[place]["props"].get("value") for place in draw["inputs"]]
    names = [kinds[place]["props"].get("elem_id") for place in draw["inputs"]]
    data[names.index("prompt")] = prompt
    body = {"data": data, "fn_index": draw["id"], "session_hash": session, "trigger_id": None}
    assert visitor.post("/gradio_api/queue/join", json=body).status_code == 200
    with visitor.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as lines:
        for line in lines.iter_lines():
            if line.startswith("data:"):
                message = json.loads(line[5:])
                if message["msg"] == "process_completed":
                    return message["success"]
    return False


def test_visitors_wait_in_line_and_none_is_lost(open_studio):
    drawn, _, _ = crowd(open_studio, 3, 2)
    assert drawn == [True] * 6


@pytest.mark.slow
def test_fifty_requests_of_five_visitors_leave_memory_flat(open_studio):
    crowd(open_studio, 5, 2)
    drawn, before, after = crowd(open_studio, 5, 10)
    print(f"{len(drawn)} requests, {before:.0f} MB before and {after:.0f} MB after")
    assert drawn == [True] * 50
    assert after < 1.1 * before


@pytest.mark.parametrize("name", ["", None, 5, "A", "x" * 41, "../.."])
def test_a_message_without_a_name_ends_nobodys_waiting(open_studio, name):
    """Gradio's queue would come to its end over the empty name, for all who wait."""
    body = {"data": [], "fn_index": 0, "session_hash": name}
    with http.Client(base_url=open_studio.url, timeout=60) as visitor:
        waiting = threading.Thread(target=crowd, args=(open_studio, 2, 2))
        waiting.start()
        answers = [visitor.post("/gradio_api/queue/join", json=body) for _ in range(3)]
        waiting.join(60)
        assert not waiting.is_alive()
        assert {answer.status_code for answer in answers} == {400}
        assert ask_event(visitor, "another", "a circle")


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"[" * 100_000,
        b'{"data": [], "batched": true}',
        b'{"data": {}}',
        b'{"data": [], "fn_index": true}',
        b'{"data": [], "event_id": "%"}',
        b'{"data": [{"path": "/etc/passwd"}]}',
        b'{"data": [[[[[[[[[[1]]]]]]]]]]}',
        b'{"data": ["\\ud800"]}',
    ],
)
def test_messages_that_no_page_sends_are_refused(content):
    with pytest.raises(Refused):
        check_message(content)


def test_a_crash_ends_no_other_request(open_studio, monkeypatch):
    def broken(*arguments, **values):
        raise RuntimeError("secret of the server")

    with http.Client(base_url=open_studio.url, timeout=60) as visitor:
        with monkeypatch.context() as patch:
            patch.setattr(open_studio.pipeline.model, "plan", broken)
            ask_event(visitor, "first", "a circle")
        assert ask_event(visitor, "second", "a circle")
