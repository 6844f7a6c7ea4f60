"""The command line of the bench: which file holds which measurement; loads no file but the one asked for."""

import signal
import sys
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup

TERMINATED_EXIT_CODE: Final = 128 + signal.SIGTERM
MODULES: Final = {
    "engine": "bench.engine",
    "cohorts": "bench.cohorts",
    "compression": "bench.compression",
    "prep": "bench.prep",
    "visual-tokens": "bench.visual_tokens",
    "interop": "bench.interop",
    "queueing": "bench.queueing",
    "queue-overhead": "bench.queue_overhead",
    "interactive": "bench.interactive",
    "local-mode": "bench.local_mode",
    "several-workers": "bench.several_workers",
    "fleet": "bench.fleet_report",
    "soak": "bench.soak",
}
"""Command → the module with its `main`."""


class Measurements(TyperGroup):
    """Imports a measurement when it is asked for: some read the memory of this process."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(MODULES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in MODULES:
            return None
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command(cmd_name)(import_module(MODULES[cmd_name]).main)
        return typer.main.get_command(alone)


app = typer.Typer(
    cls=Measurements, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)


@app.callback()
def measurements() -> None:
    """Measure Captionmill, alone and beside its peers."""


def main() -> None:
    """Run the command line. SIGTERM ends it as Ctrl-C does, its peers with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED_EXIT_CODE))
    app()


if __name__ == "__main__":
    main()
