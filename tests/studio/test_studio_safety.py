"""The studio as a public server: what it refuses and why, what no address reveals, and many visitors at once."""

import json
import random
import socket
import threading
import time
from dataclasses import replace

import httpx as http
import psutil
import pytest
from PIL import Image
from studio_server import data_url_of, served_studio

from got_core.studio.files import read_saved
from got_core.studio.guard import check_message
from got_core.studio.session import Session
from got_core.studio.settings import Limits, Refused
from got_core.studio.worker import Worker

SMALL = replace(Limits(), prompt=40, chain=400, boxes=3, steps=4, image_bytes=20_000, image_pixels=10_000)
SMALL = replace(SMALL, address_requests=10**6, address_bytes=10**12)  # All visitors here have one address.
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
def open_studio(gradio, untrained):
    with served_studio(untrained, SMALL) as studio:
        yield studio


@pytest.fixture
def client(open_studio):
    with http.Client(base_url=open_studio.url, timeout=60) as client:
        yield client


def test_no_address_reads_a_file_or_reveals_the_server(client):
    for path in PATHS:
        for answer in (client.get(path), client.post(path, json={})):
            assert answer.status_code in (403, 404, 405), path
            assert not any(word in answer.text for word in LOOKS_INSIDE)
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "//" not in page.headers["content-security-policy"]


def test_a_request_that_is_too_large_is_refused(client):
    answer = client.post("/gradio_api/queue/join", content=b"x" * (SMALL.body + 1))
    assert answer.status_code == 413
    assert "larger than" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("request_of", "words"),
    [
        (lambda s: s.plan_request("x" * 41, None, None), "the prompt has 41 characters; at most 40"),
        (lambda s: s.plan_request(7, None, None), "the prompt must be text"),
        (lambda s: s.type_chain("x" * 401), "the plan has 401 characters; at most 400"),
        (lambda s: s.type_chain("a dog (1,2),(30,40) " * 4), "4 boxes"),
        (lambda s: read_saved(b"no image", SMALL), "not a readable image"),
        (lambda s: s.generate(None, None), "there is no plan yet"),
    ],
)
def test_limits_are_named(untrained, request_of, words):
    with pytest.raises(Refused, match=words):
        request_of(Session(untrained, SMALL))


def test_an_image_of_too_many_pixels_is_refused(untrained, tmp_path):
    Image.new("RGB", (200, 200)).save(tmp_path / "large.png")
    with pytest.raises(Refused, match="pixels"):
        read_saved((tmp_path / "large.png").read_bytes(), SMALL)


def test_a_password_is_required(gradio, untrained):
    with served_studio(untrained, SMALL, password="secret") as studio, http.Client(base_url=studio.url) as visitor:
        assert visitor.get("/config").status_code == 401
        assert visitor.post("/login", data={"username": "got", "password": "wrong"}).status_code == 400
        assert visitor.post("/login", data={"username": "got", "password": "secret"}).status_code == 200
        assert visitor.get("/config").status_code == 200


@pytest.mark.parametrize(("trusted", "last"), [((), 429), (("127.0.0.1",), 400)])
def test_only_a_trusted_proxy_says_whose_request_it_is(gradio, untrained, trusted, last):
    limits = replace(SMALL, address_requests=2)
    with served_studio(untrained, limits, trusted_proxies=trusted) as studio, http.Client(base_url=studio.url) as proxy:
        answers = [
            proxy.post("/gradio_api/cancel", content=b"{", headers={"x-forwarded-for": f"10.0.0.{number}"})
            for number in range(3)
        ]
    assert [answer.status_code for answer in answers] == [400, 400, last]


@pytest.fixture(scope="module")
def impatient(gradio, untrained):
    with served_studio(untrained, replace(SMALL, header_seconds=0.3)) as studio:
        yield studio


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: local"])
def test_a_connection_without_a_whole_request_is_closed(impatient, sent):
    with connection(impatient) as visitor:
        visitor.sendall(sent)
        assert visitor.recv(1000) == b""


def test_a_connection_whose_next_request_does_not_come_whole_is_closed(impatient):
    with connection(impatient) as visitor:
        visitor.sendall(b"GET /robots.txt HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT")
        answer = b"".join(iter(lambda: visitor.recv(1000), b""))
    assert answer.startswith(b"HTTP/1.1 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_an_answer_may_take_longer_than_headers(impatient, monkeypatch):
    untrained_plan = impatient.pipeline.model.plan

    def slow(*arguments, **values):
        time.sleep(1)
        return untrained_plan(*arguments, **values)

    monkeypatch.setattr(impatient.pipeline.model, "plan", slow)
    with http.Client(base_url=impatient.url, timeout=60) as visitor:
        assert request_image(visitor, "patient", "a circle")


def connection(studio):
    """Open a connection to a studio; what is not closed after a minute fails the test."""
    host, _, port = studio.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def nonsense(rng):
    """A value that a request may hold."""
    values = (None, True, -1, 1e308, "", "\ud7ff" * 9, "../../etc/passwd", [], {}, {"path": "/etc/passwd"}, "<b>" * 200)
    value = rng.choice(values)
    return [value, nonsense(rng)] if rng.random() < 0.2 else value


def fuzz(client, number):
    """Send this many random requests; returns the numbers of their answers by status."""
    rng, seen = random.Random(0), {}
    image = data_url_of(Image.new("RGB", (8, 8)))
    addresses = (
        "/gradio_api/run/predict",
        "/gradio_api/queue/join",
        "/gradio_api/reset",
        "/gradio_api/cancel",
        "/login",
    )
    for _ in range(number):
        data = [nonsense(rng) for _ in range(rng.randrange(12))]
        event = rng.choice([None, {"action": "resize", "region": nonsense(rng)}, {"file": image}, nonsense(rng)])
        body = {"data": data, "fn_index": rng.choice([*range(16), nonsense(rng)]), "event_data": event}
        body["session_hash"] = rng.choice(["alpha", "beta", "", nonsense(rng)])
        text = json.dumps(body)
        if rng.random() < 0.1:
            text = text[: rng.randrange(len(text))]
        try:
            answer = client.post(rng.choice(addresses), content=text, headers={"content-type": "application/json"})
        except http.TransportError:
            seen["closed"] = seen.get("closed", 0) + 1
            continue
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
        assert not any(word in answer.text for word in LOOKS_INSIDE), text
    return seen


def test_nonsense_reveals_no_traceback(client):
    assert sum(fuzz(client, 200).values()) == 200
    assert request_image(client, "afterwards", "a circle")


@pytest.mark.slow
def test_ten_thousand_requests_reveal_no_traceback(client):
    print(fuzz(client, 10_000))
    assert request_image(client, "afterwards", "a circle")


def crowd(served, clients, each):
    """Let visitors generate images at once; returns the answers and the server's memory in MB before and after."""
    memory = psutil.Process().memory_info
    answers, before = [], memory().rss

    def visit(number):
        session = f"crowd{number}"
        with http.Client(base_url=served.url, timeout=300) as visitor:
            for turn in range(each):
                values = request_image(visitor, session, f"a circle {turn}")
                answers.append(values)

    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(clients)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    return answers, before / 1e6, memory().rss / 1e6


def request_image(visitor, session, prompt):
    """Request an image through the queue; returns whether it succeeded."""
    join(visitor, session, prompt)
    with visitor.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as lines:
        for line in lines.iter_lines():
            if line.startswith("data:"):
                message = json.loads(line[5:])
                if message["msg"] == "process_completed":
                    return message["success"]
    return False


def join(visitor, session, prompt, **options):
    """Send the request for an image."""
    config = visitor.get("/config", **options).json()
    handler = next(each for each in config["dependencies"] if len(each["inputs"]) > 5)
    kinds = {each["id"]: each for each in config["components"]}
    data = [kinds[component]["props"].get("value") for component in handler["inputs"]]
    names = [kinds[component]["props"].get("elem_id") for component in handler["inputs"]]
    data[names.index("prompt")] = prompt
    body = {"data": data, "fn_index": handler["id"], "session_hash": session, "trigger_id": None}
    assert visitor.post("/gradio_api/queue/join", json=body, **options).status_code == 200


def test_visitors_wait_in_a_queue_and_none_is_lost(open_studio):
    answers, _, _ = crowd(open_studio, 3, 2)
    assert answers == [True] * 6


def test_one_visitor_does_not_hold_up_another(gradio, untrained, monkeypatch):
    from got_core.studio import server

    workers, begun, opened = [], [], threading.Event()

    def plan_request(session, prompt, *_):
        begun.append(prompt)
        assert opened.wait(60)

    monkeypatch.setattr(server, "Worker", lambda limits: workers.append(Worker(limits)) or workers[-1])
    monkeypatch.setattr(Session, "plan_request", plan_request)
    monkeypatch.setattr(Session, "generate", lambda *_: None)

    def wait_for(count):
        while sum(map(len, workers[0]._waiting.values())) + len(begun) < count:
            time.sleep(0.01)

    limits = replace(SMALL, queue=40, address_queue=40)
    with (
        served_studio(untrained, limits, trusted_proxies=("127.0.0.1",)) as studio,
        http.Client(base_url=studio.url, timeout=60) as proxy,
    ):
        for number in range(33):
            join(proxy, f"many{number}", "many", headers={"x-forwarded-for": "10.0.0.1"})
        wait_for(33)
        join(proxy, "other", "one", headers={"x-forwarded-for": "10.0.0.2"})
        wait_for(34)
        opened.set()
        while len(begun) < 34:
            time.sleep(0.01)
    assert begun == ["many", "one", *["many"] * 32]


@pytest.mark.slow
def test_fifty_requests_of_five_visitors_leave_memory_flat(open_studio):
    crowd(open_studio, 5, 2)
    answers, before, after = crowd(open_studio, 5, 10)
    print(f"{len(answers)} requests, {before:.0f} MB before and {after:.0f} MB after")
    assert answers == [True] * 50
    assert after < 1.1 * before


@pytest.mark.parametrize("name", ["", None, 5, "A", "x" * 41, "../.."])
def test_a_message_without_a_name_ends_no_other_request(open_studio, name):
    """Gradio's queue would end at an empty name, for all who wait."""
    body = {"data": [], "fn_index": 0, "session_hash": name}
    with http.Client(base_url=open_studio.url, timeout=60) as visitor:
        waiting = threading.Thread(target=crowd, args=(open_studio, 2, 2))
        waiting.start()
        answers = [visitor.post("/gradio_api/queue/join", json=body) for _ in range(3)]
        waiting.join(60)
        assert not waiting.is_alive()
        assert {answer.status_code for answer in answers} == {400}
        assert request_image(visitor, "another", "a circle")


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
            request_image(visitor, "first", "a circle")
        assert request_image(visitor, "second", "a circle")
