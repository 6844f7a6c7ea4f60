"""Serves the page on one address, with password, limits and a content policy; knows none of its elements."""

import ipaddress
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import fastapi
import gradio
import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware

from producer.chat.doors import Doors
from producer.chat.page import CSS, Page
from producer.chat.session import Sessions

USER: Final = "captionmill"
"""User name for the password; the login form needs one."""
STOP_S: Final = 2
FONTS: Final = ("system-ui", "sans-serif")
MONO_FONTS: Final = ("ui-monospace", "monospace")
ONLY_FROM_HERE: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; frame-ancestors 'self'"
)
"""Content-Security-Policy under which a browser loads nothing from other servers."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host. Of names, only `localhost` counts."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    sessions: Sessions,
    examples: list[tuple[str, Path]],
    *,
    host: str,
    port: int,
    password: str | None,
    upload_max_bytes: int,
    on_ready: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM; its handler is called after questions are stopped and uploads removed.

    `on_ready` gets the page's URL. Port 0 takes a free port. Raises OSError if the address is unavailable.
    """
    assert password or is_loopback(host), "the command refuses it"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listening:
        bound_port = listening.getsockname()[1]
        folder = Path(tempfile.mkdtemp(prefix="captionmill-chat-"))
        # Gradio keeps uploads in Python's temporary folder, and has no parameter for it.
        tempfile.tempdir = str(folder)

        @asynccontextmanager
        async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
            on_ready(f"http://{f'[{host}]' if ':' in host else host}:{bound_port}")
            yield
            sessions.close()

        app = fastapi.FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
        if is_loopback(host):
            # Keeps out foreign pages whose name resolves to this machine.
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", host])
        app.add_middleware(_OnlyFromHere)
        app.add_middleware(
            Doors,
            upload_max_bytes=upload_max_bytes,
            uploads=folder,
            examples=[path.resolve() for _, path in examples],
        )
        gradio.mount_gradio_app(
            app,
            Page(sessions, examples).blocks,
            path="/",
            server_name=host,
            server_port=bound_port,
            auth=(USER, password) if password else None,
            auth_message=f"The user is {USER}.",
            max_file_size=upload_max_bytes,
            theme=gradio.themes.Default(font=list(FONTS), font_mono=list(MONO_FONTS)),
            css=CSS,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            show_error=False,
        )
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=STOP_S)
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _OnlyFromHere:
    """Adds ONLY_FROM_HERE to every response."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = ONLY_FROM_HERE
            await send(message)

        await self._app(scope, receive, send_with_policy)
