"""Starts the chat page and looks at it as a person does, in a headless Chromium that is there already."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from tests.support.processes import ROOT, spawn, start_worker, wait_until

PATIENCE_MS = 60_000
NOTE = re.compile(r"\[[^\[\]]*tokens\]")
"""What stands under an answer that has ended."""

CHAT_PYTHON = ROOT / ".venv-chat" / "bin" / "python"
"""With Gradio, which refuses the Pillow of the other tests."""


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def missing() -> str | None:
    """What a test of the page needs and this machine lacks, and how to get it."""
    if chromium() is None:
        return "the tests of the chat page need a Chromium: apt install chromium"
    if not CHAT_PYTHON.exists():
        return "the tests of the chat page need its environment: make .venv-chat/.installed"
    return None


def skip_without_a_browser() -> None:
    """Skip the calling module as a whole, with one line; with CI set its tests run, and fail."""
    told = missing()
    if told is not None and os.environ.get("CI", "").lower() in ("", "0", "false"):
        pytest.skip(told, allow_module_level=True)


@contextmanager
def open_browser() -> Iterator[Any]:
    assert missing() is None, missing()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def chat_page(redis_url: str, log: Path, *options: str) -> Iterator[str]:
    """The URL of a page that asks the workers of `redis_url`."""
    assert missing() is None, missing()
    command = [str(CHAT_PYTHON), "-m", "captionmill", "chat", "--port", "0", "--redis", redis_url, *options]
    process = spawn(command, log, {})
    try:

        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            return "The chat page is at" in log.read_text()

        wait_until(listens)
        match = re.search(r"http://\S+", log.read_text())
        assert match
        yield match[0]
    finally:
        process.terminate()
        process.wait()


def demo_worker(redis_url: str, log: Path, model_folder: Path, **settings: str) -> subprocess.Popen[bytes]:
    """A worker with the demo model or one like it, ready."""
    environment = {
        "CAPTIONMILL_REDIS_URL": redis_url,
        "CAPTIONMILL_MODEL_FOLDER": str(model_folder),
        "CAPTIONMILL_PRECISION": "exact",
        **settings,
    }
    worker = start_worker("worker", log, environment)

    def ready() -> bool:
        assert worker.poll() is None, log.read_text()
        return " ready." in log.read_text()

    wait_until(ready)
    return worker


class Visitor:
    """Somebody with the page open."""

    def __init__(self, browser: Any, url: str, *, width: int = 1280, height: int = 900) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.page.set_default_timeout(PATIENCE_MS)
        self.requested: list[str] = []
        """addresses that the page asked for, blocked ones too"""
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(url)
        self.box = self.page.locator("#box textarea")
        self.box.wait_for()

    def take_example(self, number: int) -> None:
        self.page.locator(".gallery-item").nth(number).click()
        self.page.locator("#box .thumbnails, #box img").first.wait_for()

    def attach(self, path: Path) -> None:
        self.page.locator("#box input[type=file]").set_input_files(path)
        self.page.locator("#box .thumbnails, #box img, #box [data-testid=file]").first.wait_for()

    def send(self, question: str | None = None) -> None:
        if question is not None:
            self.box.fill(question)
        self.box.press("Enter")

    def ask(self, question: str | None = None) -> str:
        """Send it, with what is attached → everything said so far, once it is answered."""
        before = self.ends()
        self.send(question)
        wait_until(lambda: self.ends() > before)
        return self.said()

    def said(self) -> str:
        return str(self.page.locator("#chat").inner_text())

    def ends(self) -> int:
        """So many questions have ended."""
        said = self.said()
        return len(NOTE.findall(said)) + said.count("No answer: ") + said.count("[stopped")

    def command(self) -> str:
        """The one to try on a folder."""
        lines = self.page.locator("#command .cm-line").all_inner_texts()
        return "\n".join(lines)

    def set(self, setting: str, value: int | float) -> None:
        """A number among the settings, by its id."""
        field = self.page.locator(f"#{setting} input[type=number]")
        field.fill(str(value))
        field.press("Tab")
