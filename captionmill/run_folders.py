"""Commands that look at runs, or withdraw one: watch, status, list, cancel."""

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from captionmill.app import RUNS, app, make_console
from captionmill.exits import refuse, sentences
from captionmill.local_site import LOCAL_FOLDER, local_server
from captionmill.options import AsJson, RedisUrl, RunFolderPath
from captionmill.runs import tell
from producer.connection import connect
from producer.driving import event, summary
from producer.ledger import LEDGER, LedgerError
from producer.planning import PLANNING
from producer.run_folder import RunFolder
from producer.settings import named_server, server_url
from producer.sources import shown, shown_sources
from producer.watching import watch as watch_folder


@app.command(rich_help_panel=RUNS)
def watch(folder: RunFolderPath, as_json: AsJson = False) -> None:
    """Show how far a run is until it is finished; ends nothing when it is ended."""
    with sentences(), closing(RunFolder(folder, read_only=True)) as opened:
        watch_folder(opened, make_console(as_json=as_json), as_json=as_json)
        tell(summary(opened), make_console(as_json=as_json), as_json=as_json)


@app.command(rich_help_panel=RUNS)
def status(folder: RunFolderPath, as_json: AsJson = False) -> None:
    """Say how far a run is, by outcome."""
    with sentences(), closing(RunFolder(folder, read_only=True)) as opened:
        tell(summary(opened), make_console(as_json=as_json), as_json=as_json)


@app.command("list", rich_help_panel=RUNS)
def list_runs(
    folder: Annotated[Path, typer.Argument(help="Where runs' folders are.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """List the runs in a folder and its folders."""
    with sentences():
        if not folder.is_dir():
            reason = "is a file, not a folder" if folder.exists() else "is not there"
            refuse(f"{shown(folder)} {reason}: name the folder that the runs' folders are in.")
        table = Table("folder", "sources", "rows", "complete", "failed questions", "state")
        for ledger in sorted(folder.glob(f"**/{LEDGER}")):
            if ledger.parent.name == PLANNING:
                continue
            try:
                with closing(RunFolder(ledger.parent, read_only=True)) as opened:
                    found = summary(opened)
            except LedgerError as error:
                found = {"folder": shown(ledger.parent), "error": str(error)}
            if as_json:
                event("run", found)
            elif "error" in found:
                table.add_row(found["folder"], "", "", "", "", found["error"])
            else:
                state = "finished" if found["finished"] else "unfinished"
                counts = (str(found[name]) for name in ("rows", "complete", "failed"))
                table.add_row(found["folder"], shown_sources(found["sources"]), *counts, state)
        if not as_json:
            make_console(as_json=False).print(table)


@app.command(rich_help_panel=RUNS)
def cancel(folder: RunFolderPath, redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """Withdraw what was sent and is not answered. `run --resume` asks it again."""
    with sentences(), ExitStack() as stack:
        opened = RunFolder(folder)
        url = named_server(redis_url)
        if url is None and opened.submission.local_model is not None:
            url = stack.enter_context(local_server(folder.absolute() / LOCAL_FOLDER)).url
        with opened.role("feeder"), opened.role("collector"):
            withdrawn = opened.cancel(connect(url or server_url()))
        if as_json:
            event("cancelled", {"jobs": withdrawn})
        else:
            make_console(as_json=False).print(f"{withdrawn} jobs withdrawn; answers so far are kept.")
