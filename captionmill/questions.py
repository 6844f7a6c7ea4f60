"""The commands `ask` and `chat`, for questions that somebody waits for; know no run."""

import os
import shlex
import signal
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from captionmill.app import QUESTIONS, app, make_console
from captionmill.exits import EXIT_FAILURES, refuse, sentences
from captionmill.model_cache import on_a_server
from captionmill.options import (
    AsJson,
    GenerationOptions,
    LocalOptions,
    Model,
    RedisUrl,
    read_detail,
    several,
)
from captionmill.serving import Site, connected, passing_site, server_or_none
from contract.answer import Answer
from contract.installing import install_line
from contract.job import GenerationParameters
from contract.option_groups import with_groups
from producer.ask import InteractiveQuestion, ask
from producer.chat.chosen import AnsweredBy
from producer.chat.session import Sessions
from producer.model_choice import live_model, model_id
from producer.run_console import event
from producer.sources import shown
from producer.workers import live_workers


@app.command("ask", rich_help_panel=QUESTIONS)
@with_groups
def ask_one(
    image: Annotated[str, typer.Argument(help="Image file or URL; `-` for no image.")],
    question: Annotated[str, typer.Argument(help="The question.")],
    choice: Annotated[
        list[str] | None,
        typer.Option(callback=several, help="An allowed answer; give at least two."),
    ] = None,
    detail: Annotated[
        str,
        typer.Option(
            metavar="low|high|auto|N",
            help="How closely to look: low (once), high (every tile), auto (as many as it fills) or N tiles.",
            hidden=True,
        ),
    ] = "high",
    *,
    model: Model = None,
    generation: GenerationOptions,
    local: LocalOptions,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Ask one question and print its answer while it is generated, ahead of all runs."""
    with sentences(), ExitStack() as stack:
        url = server_or_none(redis_url, local)
        if image != "-" and url is None and "://" not in image and not os.path.isfile(image):
            refuse(_no_image(image))
        looks = {"--detail": detail != "high", "--visual-tokens": generation.visual_tokens is not None}
        if image == "-" and any(looks.values()):
            refuse(
                f"{next(name for name, given in looks.items() if given)} decides nothing without an image."
            )
        asked = InteractiveQuestion(
            image=None if image == "-" else image,
            question=question,
            parameters=GenerationParameters.model_validate(generation.changes()),
            detail=read_detail(detail),
            choices=tuple(choice) if choice else None,
        )
        if url is None:
            # stdout is for the answer only.
            site = stack.enter_context(passing_site(model, local, make_console(as_json=True)))
        else:
            site = Site(url)
        connection, queue = connected(site)
        if not site.own and model is not None:
            live = {one.model for one in live_workers(connection)}
            asked = replace(asked, model=live_model(model_id(on_a_server(model)), live))
        pieces: list[str] = []

        def write(piece: str) -> None:
            pieces.append(piece)
            print(piece, end="", flush=True)

        outcome = ask(connection, queue, asked, None if as_json else write)
        if as_json:
            event("answer", outcome.model_dump(mode="json"))
        elif isinstance(outcome, Answer):
            print("" if pieces else outcome.text)
        if not isinstance(outcome, Answer):
            gone = image != "-" and "://" not in image and not os.path.isfile(image)
            here = f" {_no_image(image)}" if gone else ""
            refuse(f"{outcome.code}: {outcome.message}{here}", EXIT_FAILURES)


def _no_image(image: str) -> str:
    """A sentence about a name that is not a file's."""
    if os.path.isdir(image):
        return (
            f"{shown(image)} is a folder, and one image is asked about: name one in it, or ask about all "
            f"of them with: captionmill run {shlex.quote(image)} --question QUESTION"
        )
    return f"There is no file {shown(image)}."


@app.command(rich_help_panel=QUESTIONS)
@with_groups
def chat(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 7860,
    password: Annotated[
        str | None, typer.Option(help="Password of the page; required if other machines can open it.")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="File with the password, which keeps it out of process lists.")
    ] = None,
    upload_max_bytes: Annotated[
        int, typer.Option(min=1, help="Largest image in bytes; workers have their own limit.")
    ] = 50_000_000,
    *,
    model: Model = None,
    local: LocalOptions,
    demo_model: Annotated[
        bool, typer.Option("--demo", help="Answer with the demo model, without a server.")
    ] = False,
    redis_url: RedisUrl = None,
) -> None:
    """Serve a page to try images, questions and settings; its questions go ahead of all runs."""
    if find_spec("gradio") is None:
        refuse(f"The chat page needs Gradio, which is not installed: {install_line('chat')}")
    from demo.samples import MODEL_FOLDER, examples
    from producer.chat.server import is_loopback, serve

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with sentences(), ExitStack() as stack:
        if password_file is not None:
            if password is not None:
                refuse("Give --password or --password-file, not both.")
            password = password_file.read_text(encoding="utf-8").strip()
        if not password and (password is not None or not is_loopback(host)):
            refuse(f"A page on {host} needs a --password: others could use it and read its images.")
        if demo_model:
            if redis_url is not None or model is not None:
                refuse("--demo starts a server and a worker of its own: leave --redis and --model out.")
            url, model = None, str(MODEL_FOLDER)
        else:
            url = server_or_none(redis_url, local)
            if url is not None and model is not None:
                refuse("Whichever worker of the server is free answers on the page: leave --model out.")
        local_model = model if url is None else None
        if url is None:
            url = stack.enter_context(passing_site(model, local, make_console(as_json=False))).url
        serve(
            Sessions(AnsweredBy(url, local_model)),
            examples(),
            host=host,
            port=port,
            password=password,
            upload_max_bytes=upload_max_bytes,
            on_ready=lambda url: print(f"The chat page is at {url} (Ctrl-C ends it).", flush=True),
        )
