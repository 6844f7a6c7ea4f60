"""Draws docs/chat-wide.png and docs/chat-narrow.png again: python -m tests.support.chat_screens"""

import tempfile
from pathlib import Path

import PIL.Image

from demo.samples import MODEL_FOLDER, NUMBER_QUESTION
from tests.support.chat_page import Visitor, chat_page, demo_worker, open_browser
from tests.support.processes import ROOT, start_server

WINDOWS = {"wide": (1280, 860), "narrow": (420, 900)}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server, redis_url = start_server(folder)
        worker = demo_worker(redis_url, folder / "worker.log", MODEL_FOLDER)
        try:
            _draw(redis_url, folder)
        finally:
            worker.terminate()
            worker.wait()
            server.kill()


def _draw(redis_url: str, folder: Path) -> None:
    with (
        chat_page(redis_url, folder / "page.log") as url,
        open_browser() as browser,
    ):
        for name, (width, height) in WINDOWS.items():
            visitor = Visitor(browser, url, width=width, height=height)
            while "No answer" in visitor.ask("Hello?"):  # the worker is loading
                pass
            visitor.page.locator("#new").click()
            visitor.take_example(1)
            visitor.ask()
            visitor.ask(NUMBER_QUESTION)
            path = ROOT / "docs" / f"chat-{name}.png"
            visitor.page.screenshot(path=path, full_page=True)
            with PIL.Image.open(path) as drawn:
                drawn.quantize(128).save(path, optimize=True)
            visitor.page.close()


if __name__ == "__main__":
    main()
