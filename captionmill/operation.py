"""The commands `top` and `exporter`; they only read the server."""

import time
from typing import Annotated, Final

import redis
import typer

from captionmill.app import SITE, CommandConsole, app
from captionmill.exits import refuse, sentences
from captionmill.options import RedisUrl
from producer.connection import trouble
from producer.run_console import signals_as_flag
from producer.settings import server_url
from producer.top import connect_to_look, top, top_once

EXPORTER_LOOK_S: Final = 0.2
"""Seconds between two looks for a signal."""


@app.command("top", rich_help_panel=SITE)
def show_server(
    redis_url: RedisUrl = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Look once; exit code 2 if Redis does not answer.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each look.")] = False,
) -> None:
    """Show workers, queues, runs and the server's memory, live; changes nothing."""
    with sentences():
        url = server_url(redis_url)
        connection = connect_to_look(url)
        if once:
            try:
                top_once(connection, CommandConsole(markup=False, highlight=False), as_json=as_json)
            except redis.RedisError as error:
                refuse(trouble(url, error))
        else:
            top(connection, CommandConsole(markup=False, highlight=False), every, as_json=as_json)


@app.command(rich_help_panel=SITE)
def exporter(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 9808,
    redis_url: RedisUrl = None,
) -> None:
    """Serve figures of queues, store and workers for Prometheus at /metrics, until a signal comes."""
    from producer.exporter import serve

    with sentences(), signals_as_flag() as stopped:
        try:
            close = serve(server_url(redis_url), host, port)
        except ValueError:
            refuse("The URL of Redis is not valid; it begins with redis://, rediss:// or unix://.")
        except OSError as error:
            refuse(f"{host}:{port} cannot be opened: {error.strerror}.")
        print(f"captionmill exporter: http://{host}:{port}/metrics", flush=True)
        while not stopped:
            time.sleep(EXPORTER_LOOK_S)
        close()
