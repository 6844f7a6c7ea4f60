"""The chat page in a real browser, with real workers: what a person sees, and what never happens."""

import json
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from contract.broker import INTERACTIVE_QUEUE
from contract.store import WORKERS_KEY
from demo.samples import MODEL_FOLDER, read_truth
from tests.support.chat_page import Visitor, chat_page, demo_worker, open_browser, skip_without_a_browser
from tests.support.processes import wait_until
from tests.support.web_server import web_server

skip_without_a_browser()

TRUTH = read_truth()
FIRST, WIDE, TALL = TRUTH["01-square.png"], TRUTH["06-wide.png"], TRUTH["04-tall.png"]
PASSWORD = "between us"


@pytest.fixture(scope="module")
def store(server_url: str) -> str:
    """A database of its own, so that nobody's flush hits it."""
    url = f"{server_url}/2"
    with redis.Redis.from_url(url) as connection:
        connection.flushdb()
    return url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def url(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with chat_page(store, tmp_path_factory.mktemp("page") / "page.log") as opened:
        yield opened


class Workers:
    """One worker at a time, of the demo model."""

    def __init__(self, store: str, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._count = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, model_folder: Path = MODEL_FOLDER) -> None:
        if self.process is None:
            self._count += 1
            log = self._folder / f"worker-{self._count}.log"
            self.process = demo_worker(self._store, log, model_folder)

    @contextmanager
    def asleep_after(self, visitor: Visitor, text: str) -> Iterator[None]:
        """The visitor's question is answered as far as `text`, and no further before the block ends."""
        assert self.process is not None
        visitor.send()
        wait_until(lambda: text in visitor.said())
        self.process.send_signal(signal.SIGSTOP)
        yield
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def workers(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    made = Workers(store, tmp_path_factory.mktemp("workers"))
    yield made
    made.kill()


def test_without_a_worker_it_says_what_to_start(url: str, browser: Any) -> None:
    visitor = Visitor(browser, url)
    said = visitor.ask("Hello?")
    assert "No answer: No worker is alive at redis://" in said
    visitor.page.close()


def test_a_conversation_about_an_example_then_words_alone(url: str, browser: Any, workers: Workers) -> None:
    workers.start()
    visitor, other = Visitor(browser, url), Visitor(browser, url)
    visitor.take_example(0)
    assert FIRST.description in visitor.ask()
    said = visitor.ask("What number is printed in the image?")
    assert f"\n{FIRST.number}\n" in said
    assert re.search(r"\[\d+\.\d\d s to the first token, \d+ tokens/s, \d+ tokens\]", said)
    wait_until(lambda: "--question 'What number is printed in the image?'" in visitor.command())
    assert FIRST.description not in other.said()
    # the last image given is what is talked about
    other.take_example(1)
    assert WIDE.description in other.ask()
    other.take_example(2)
    assert f"\n{TALL.number}\n" in other.ask()
    assert f"\n{TALL.number}\n" not in visitor.said()
    other.page.locator("#new").click()
    wait_until(lambda: WIDE.description not in other.said())
    assert "tokens]" in other.ask("Hello?")
    assert all(one.startswith((url, "data:", "blob:")) for one in visitor.requested + other.requested)
    for one in (visitor, other):
        one.page.close()


def test_an_image_that_cannot_be_read(url: str, browser: Any, workers: Workers, tmp_path: Path) -> None:
    workers.start()
    broken = tmp_path / "broken.png"
    broken.write_bytes((Path("demo/images/02-wide.png")).read_bytes()[:900])
    visitor = Visitor(browser, url)
    visitor.take_example(0)
    visitor.ask()
    visitor.attach(broken)
    assert "No answer: The image" in visitor.ask("What number is printed in the image?")
    assert f"\n{FIRST.number}\n" in visitor.ask("What number is printed in the image?")
    visitor.page.close()


def test_settings_that_go_together(url: str, browser: Any, workers: Workers) -> None:
    workers.start()
    visitor = Visitor(browser, url)
    beams, temperature = (
        visitor.page.locator(f"#{one} input[type=number]") for one in ("beams", "temperature")
    )
    visitor.set("temperature", 0.7)
    wait_until(beams.is_disabled)
    wait_until(lambda: "--temperature 0.7" in visitor.command() and "--do-sample" in visitor.command())
    visitor.set("temperature", 0)
    wait_until(beams.is_enabled)
    visitor.set("beams", 4)
    visitor.set("max-tokens", 40)
    wait_until(temperature.is_disabled)
    wait_until(lambda: "--num-beams 4" in visitor.command() and "--max-new-tokens 40" in visitor.command())
    assert "appears when it is final" in visitor.page.locator("#note").inner_text()
    visitor.take_example(0)
    assert FIRST.description in visitor.ask()
    visitor.page.close()


def unending(folder: Path) -> Path:
    """The demo model with another end of sequence, one that it never says."""
    shutil.copytree(MODEL_FOLDER, folder, ignore=shutil.ignore_patterns("captionmill.json"))
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        changed = re.sub(r'("eos_token_id": )2\b', r"\g<1>0", path.read_text())
        json.loads(changed)
        path.write_text(changed)
    return folder


def test_stop_ends_the_answer_and_frees_the_engine(
    url: str, browser: Any, workers: Workers, store: str, tmp_path: Path
) -> None:
    workers.kill()
    workers.start(unending(tmp_path / "unending"))
    visitor, leaver = Visitor(browser, url), Visitor(browser, url)
    with redis.Redis.from_url(store) as connection:

        def idle() -> bool:
            return not (connection.llen(INTERACTIVE_QUEUE) or connection.exists("unacked"))

        connection.delete("unacked", "unacked_index")  # of workers killed before
        for one in (visitor, leaver):
            one.take_example(0)
            one.set("max-tokens", 700)
        with workers.asleep_after(visitor, "From left"):
            visitor.page.locator("#box .stop-button").click()
            wait_until(lambda: connection.keys("captionmill:*:stop:0"))
        wait_until(lambda: "[stopped" in visitor.said())
        wait_until(idle)
        match = re.search(r"(\d+) tokens\]", visitor.said())
        assert match
        assert int(match[1]) < 700
        assert "From left" in visitor.said()
        with workers.asleep_after(leaver, "From left"):
            leaver.page.close()
            wait_until(lambda: connection.keys("captionmill:*:stop:0"))
        wait_until(idle)
    visitor.page.close()
    workers.kill()


def test_a_worker_that_dies_and_comes_back(
    url: str, browser: Any, workers: Workers, store: str, tmp_path: Path
) -> None:
    """The answer under way is made again; so is every later one."""
    workers.start(unending(tmp_path / "unending"))
    visitor = Visitor(browser, url)
    visitor.take_example(0)
    visitor.set("max-tokens", 700)
    with redis.Redis.from_url(store) as connection:
        dead = connection.hkeys(WORKERS_KEY)
        with workers.asleep_after(visitor, "From left"):
            workers.kill()
        assert visitor.ends() == 0
        workers.start()
        connection.hdel(WORKERS_KEY, *dead)  # as 20 s without a report do
    wait_until(lambda: visitor.ends() == 1)
    assert FIRST.description in visitor.said()
    visitor.set("max-tokens", 20)
    assert f"\n{FIRST.number}\n" in visitor.ask("What number is printed in the image?")
    visitor.page.close()


def test_files_and_names_that_are_not_its_own(url: str) -> None:
    for path in ("/etc/hostname", "README.md", str(Path("README.md").resolve())):
        assert httpx.get(f"{url}/gradio_api/file={path}").status_code in (403, 404)
    assert httpx.get(url, headers={"Host": "elsewhere.example"}).status_code == 400
    large = {"files": ("large.png", b"0" * 50_000_001)}
    assert httpx.post(f"{url}/gradio_api/upload", files=large).status_code == 413
    host, port = url.removeprefix("http://").split(":")
    for path in ("gradio_api/upload", "gradio_api/queue/join", "login"):
        said = f"POST /{path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {2 * 2**30}\r\n\r\n"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(said.encode())
            assert b" 413 " in connection.recv(100)
    assert "default-src 'self'" in httpx.get(url).headers["Content-Security-Policy"]


def test_a_body_without_end_is_not_taken(url: str) -> None:
    """Nobody said how long it is: it is refused on the way, whatever it is for."""
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 2 * 2**30:
            sent += 2**20
            yield bytes(2**20)

    for path in ("gradio_api/queue/join", "login", "gradio_api/upload"):
        sent = 0
        with suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            if path == "gradio_api/upload":
                kind = {"Content-Type": "multipart/form-data; boundary=x"}
            assert httpx.post(f"{url}/{path}", content=endless(), headers=kind).status_code in (400, 413)
        assert sent < 500 * 2**20
    assert httpx.get(url).status_code == 200


def test_a_path_in_place_of_an_upload_is_not_read(url: str, store: str, tmp_path: Path) -> None:
    """As a client of our own sends it: the page's own files and uploads alone are pictures."""
    secret = tmp_path / "secret.png"
    shutil.copy(MODEL_FOLDER.parent.parent / "images" / "01-square.png", secret)
    dependencies = httpx.get(f"{url}/config").json()["dependencies"]
    answer = next(one["id"] for one in dependencies if one["api_name"] == "answer")
    places = (
        {"path": str(secret)},
        {"path": f"file://{secret}"},
        {"path": "http://127.0.0.1:9/a.png"},
        {"url": "http://127.0.0.1:9/a.png"},
    )
    for number, place in enumerate(places):
        file = {**place, "mime_type": "image/png", "meta": {"_type": "gradio.FileData"}}
        asked: list[Any] = [{"text": "What?", "files": [file]}, [], None, 1, 20, 0, "high"]
        session = {"fn_index": answer, "session_hash": f"client{number}"}
        refused = httpx.post(f"{url}/gradio_api/queue/join", json={"data": asked, **session})
        assert refused.status_code == 403, refused.text
        said = {"role": "user", "content": [{"type": "file", "file": file}]}
        asked = [{"text": "What?", "files": []}, [said], None, 1, 20, 0, "high"]
        refused = httpx.post(f"{url}/gradio_api/queue/join", json={"data": asked, **session})
        assert refused.status_code == 403, refused.text
    with redis.Redis.from_url(store) as connection:
        assert connection.llen(INTERACTIVE_QUEUE) == 0


def test_another_page_in_the_browser_sends_nothing(url: str, browser: Any) -> None:
    with web_server() as elsewhere:
        page = browser.new_page()
        page.goto(elsewhere.url("/image"))
        answered: dict[str, int] = {}
        page.on("response", lambda response: answered.update({response.url: response.status}))
        page.on("requestfailed", lambda request: answered.setdefault(request.url, 0))
        for path in ("gradio_api/upload", "gradio_api/queue/join", "login", "config"):
            asked = "{method: 'POST', mode: 'no-cors', body: new FormData()}"
            page.evaluate(f"(url) => fetch(url, {asked}).catch(() => 0)", f"{url}/{path}")
        wait_until(lambda: len(answered) == 4)
        assert set(answered.values()) <= {0, 403}
        page.close()


def test_a_page_for_others_asks_for_a_password(store: str, browser: Any, tmp_path: Path) -> None:
    with chat_page(store, tmp_path / "log", "--host", "0.0.0.0", "--password", PASSWORD) as opened:
        url = opened.replace("0.0.0.0", "127.0.0.1")
        assert httpx.post(f"{url}/gradio_api/upload", files={"files": b"0"}).status_code == 401
        page = browser.new_page()
        page.goto(url)
        for password in ("wrong", PASSWORD):
            page.get_by_label("username").fill("captionmill")
            page.get_by_label("password").fill(password)
            page.get_by_role("button", name="Login").click()
            if password == "wrong":
                page.get_by_text("Incorrect").wait_for()
        page.locator("#box textarea").wait_for()
        page.close()
        # One that tries many is put off, even with the right one.
        codes = [_log_in(url, f"guess {number}") for number in range(12)]
        assert set(codes[:8]) == {400}
        assert codes[-1] == 429
        assert _log_in(url, PASSWORD) == 429
        # Many that try few each put off all.
        assert _log_in(url, PASSWORD, "127.0.0.2") == 200
        for number in range(96):
            _log_in(url, "guess", f"127.0.0.{3 + number // 8}")
        assert _log_in(url, PASSWORD, "127.0.0.200") == 429


def _log_in(url: str, password: str, address: str = "127.0.0.1") -> int:
    form = {"username": "captionmill", "password": password}
    with httpx.Client(transport=httpx.HTTPTransport(local_address=address)) as client:
        return client.post(f"{url}/login", data=form).status_code
