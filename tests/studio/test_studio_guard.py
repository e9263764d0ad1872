"""What the studio refuses before it reads or parses a request, and that visitors do not push out one another."""

import asyncio
import logging
from dataclasses import replace
from types import SimpleNamespace

import httpx as http
import pytest
from PIL import Image

from got_core.studio.files import Saved
from got_core.studio.session import Session, Sessions
from got_core.studio.settings import Limits, Settings

guard_module = pytest.importorskip("got_core.studio.guard", reason="Starlette comes with Gradio")

JOIN = "/gradio_api/queue/join"
MESSAGE = {"data": [], "fn_index": 0, "session_hash": "alpha"}


class Server:
    """A guarded application that counts what reaches it; the cookie `ok` is logged in."""

    def __init__(self, limits=None, **options):
        self.reached, self.now = [], 0.0
        self.guard = guard_module.Guard(self.app, limits or Limits(), clock=lambda: self.now, **options)
        self.inner = SimpleNamespace(cookie_id="x", tokens={"ok": "got"})

    async def app(self, scope, receive, send):
        body = (await receive())["body"]
        self.reached.append(scope["path"])
        status = 400 if scope["path"] == "/login" and b"right" not in body else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def __call__(self, scope, receive, send):
        await self.guard(scope | {"app": self.inner}, receive, send)

    def ask(self, method, path, *, address="1.2.3.4", host="localhost:7860", **options):
        async def send():
            transport = http.ASGITransport(self, client=(address, 1))
            async with http.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())


async def unread():
    """A body that must not be read."""
    raise AssertionError("the body was read")
    yield b""


async def slow():
    yield b"{"
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("/gradio_api/upload", "localhost", 404),
        (JOIN, "attacker.example", 421),
        (JOIN, "localhost.attacker.example:7860", 421),
        (JOIN, "localhost", 401),
        ("/gradio_api/cancel", "localhost", 401),
        ("/gradio_api/reset", "localhost", 401),
        ("/config", "localhost", 401),
    ],
)
def test_address_host_and_password_come_before_the_body(path, host, status):
    server = Server(password=True)
    assert server.ask("POST", path, host=host, content=unread()).status_code == status
    assert server.reached == []


def test_only_static_files_and_the_login_need_no_password():
    server = Server(password=True)
    assert {server.ask("GET", path).status_code for path in ("/", "/assets/a.js", "/static/b.css")} == {200}
    cookie = {"cookie": "access-token-unsecure-x=ok"}
    assert server.ask("POST", JOIN, json=MESSAGE, headers=cookie).status_code == 200
    assert server.ask("POST", JOIN, json=MESSAGE, headers={"cookie": "access-token-x=other"}).status_code == 401


@pytest.mark.parametrize("host", ["studio.example.org", "10.0.0.7:7860", "[::1]:7860", "LOCALHOST"])
def test_allowed_hosts_are_answered(host):
    assert Server(hosts=["studio.example.org"]).ask("GET", "/", host=host).status_code == 200


def test_each_address_has_its_own_rate():
    server = Server(replace(Limits(), address_requests=3))
    answers = [server.ask("POST", JOIN, json=MESSAGE).status_code for _ in range(4)]
    assert answers == [200, 200, 200, 429]
    assert server.ask("POST", JOIN, json=MESSAGE, address="5.6.7.8").status_code == 200
    server.now = 61
    assert server.ask("POST", JOIN, json=MESSAGE).status_code == 200


def test_what_an_address_sends_is_limited_also_if_it_is_refused():
    server = Server(replace(Limits(), address_bytes=15_000))
    assert server.ask("POST", "/gradio_api/cancel", content=b"x" * 20_000).status_code == 413
    assert server.ask("POST", JOIN, content=unread()).status_code == 429


def test_a_large_list_is_refused_before_it_is_parsed(monkeypatch):
    server = Server()
    monkeypatch.setattr(guard_module, "json", None)
    answer = server.ask("POST", JOIN, content=b"[" + b"1," * 8_000_000 + b"1]")
    assert answer.status_code == 400
    assert answer.json() == {"detail": "the request has too many values"}
    assert server.ask("POST", "/gradio_api/cancel", content=b"[" + b"1," * 50_000 + b"1]").status_code == 413
    assert server.reached == []


def test_a_slow_request_is_ended():
    server = Server(replace(Limits(), body_seconds=0.01))
    assert server.ask("POST", JOIN, content=slow()).status_code == 408


def test_wrong_passwords_are_slowed_and_logged(caplog):
    server = Server(password=True)
    with caplog.at_level(logging.WARNING):
        answers = [server.ask("POST", "/login", content=b"wrong").status_code for _ in range(6)]
    assert answers == [400] * 5 + [429]
    assert caplog.messages == ["a wrong password from 1.2.3.4"] * 5
    assert server.ask("POST", "/login", content=b"right").status_code == 429
    assert server.ask("POST", "/login", content=b"right", address="5.6.7.8").status_code == 200
    server.now = 61
    assert server.ask("POST", "/login", content=b"right").status_code == 200


def test_new_names_of_one_address_remove_no_session_of_another(untrained):
    limits = Limits(sessions=6, address_sessions=4)
    sessions = Sessions(lambda: Session(untrained, limits), limits)
    mine = sessions.of("mine", "1.1.1.1")
    for number in range(20):
        sessions.of(f"theirs{number}", "2.2.2.2")
    assert sessions.of("mine", "1.1.1.1") is mine
    assert len(sessions) == 5
    for number in range(20):
        sessions.of(f"others{number}", "3.3.3.3")
    assert sessions.of("mine", "1.1.1.1") is mine
    assert len(sessions) == 6


def test_a_large_saved_image_is_reduced_and_counted(untrained):
    session = Session(untrained, Limits())
    large = Image.new("RGB", (2000, 1500))
    session.load(Saved(large, "a circle", "a circle (1,2),(300,400)", Settings.default(untrained)))
    assert session.image.size == (32, 32)
    assert session.image_bytes == 32 * 32 * 3
    session.load(Saved(large, "paint it", "a circle (1,2),(300,400)", Settings.default(untrained), large))
    assert session.image_bytes == 24 * 40 * 3 + 2000 * 1500 * (3 + 3 * 4)
