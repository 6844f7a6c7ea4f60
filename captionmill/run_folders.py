"""The commands `watch`, `status`, `list`, `repair` and `cancel`: they ask nothing."""

from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Column, Table

from captionmill.app import RUNS, app, make_console
from captionmill.exits import EXIT_REFUSED, refuse, sentences
from captionmill.local_site import LOCAL_FOLDER, local_server
from captionmill.options import AsJson, RedisUrl, RunFolderPath
from captionmill.runs import tell
from contract.counting import counted
from producer.connection import connect
from producer.ledger import LEDGER, LedgerError
from producer.planning import PLANNING
from producer.repair import WORKSHOP, Repaired
from producer.repair import repair as repair_ledger
from producer.run_console import event, summary
from producer.run_folder import RunFolder
from producer.run_monitor import watch as watch_folder
from producer.settings import named_server, server_url
from producer.sources import shown, shown_sources

WIDEST: Final = 10_000
"""Characters in the longest line of a table."""


@app.command(rich_help_panel=RUNS)
def watch(folder: RunFolderPath, as_json: AsJson = False) -> None:
    """Show a run's progress until it is finished; ending this command does not end the run."""
    with sentences(), closing(RunFolder(folder, read_only=True)) as opened:
        watch_folder(opened, make_console(as_json=as_json), as_json=as_json)
        tell(summary(opened), make_console(as_json=as_json), as_json=as_json)


@app.command(rich_help_panel=RUNS)
def status(folder: RunFolderPath, as_json: AsJson = False) -> None:
    """Show how many rows and questions of a run are done, by outcome."""
    with sentences(), closing(RunFolder(folder, read_only=True)) as opened:
        tell(summary(opened), make_console(as_json=as_json), as_json=as_json)


@app.command("list", rich_help_panel=RUNS)
def list_runs(
    folder: Annotated[Path, typer.Argument(help="Folder that contains the runs' folders.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """List the runs in a folder and its subfolders. Exit code 2 if one cannot be read."""
    with sentences():
        if not folder.is_dir():
            reason = "is a file, not a folder" if folder.exists() else "is not there"
            refuse(f"{shown(folder)} {reason}: name the folder that the runs' folders are in.")
        names = (Column(name, overflow="fold") for name in ("folder", "sources"))
        table = Table(*names, "rows", "complete", "failed questions", "state")
        all_read = True
        for ledger in sorted(folder.glob(f"**/{LEDGER}")):
            if ledger.parent.name in (PLANNING, WORKSHOP):
                continue
            try:
                with closing(RunFolder(ledger.parent, read_only=True)) as opened:
                    found = summary(opened)
            except LedgerError as error:
                found = {"folder": shown(ledger.parent), "error": str(error)}
                all_read = False
            if as_json:
                event("run", found)
            elif "error" in found:
                table.add_row(found["folder"], "", "", "", "", found["error"])
            else:
                state = "finished" if found["finished"] else "unfinished"
                counts = (str(found[name]) for name in ("rows", "complete", "failed"))
                table.add_row(found["folder"], shown_sources(found["sources"]), *counts, state)
        if not as_json:
            console = make_console(as_json=False)
            if not console.is_terminal:  # a file or a pipe gets the full names
                unbound = console.options.update(width=WIDEST)
                console.width = max(console.width, console.measure(table, options=unbound).maximum)
            console.print(table)
        if not all_read:
            raise typer.Exit(EXIT_REFUSED)


def _repaired(made: Repaired) -> dict[str, Any]:
    outputs = [shown(path) for path in made.unknown_outputs]
    return asdict(made) | {"kept": shown(made.kept), "unknown_outputs": outputs}


def _unknown_outputs(made: Repaired) -> str:
    if not made.unknown_outputs:
        return ""
    names = ", ".join(map(shown, made.unknown_outputs))
    return (
        f"The new ledger cannot tell whether these are as the run wrote them: {names}. Move them away, or "
        "have them written anew by adding --overwrite below.\n"
    )


@app.command(rich_help_panel=RUNS)
def repair(folder: RunFolderPath, as_json: AsJson = False) -> None:
    """Rebuild a damaged ledger from the source and the answers on disk. `run --resume` asks the rest."""
    with sentences():
        made = repair_ledger(folder)
        console = make_console(as_json=as_json)
        if as_json:
            event("repaired", {} if made is None else _repaired(made))
        elif made is None:
            console.print(f"The ledger of {shown(folder)} is whole; nothing was changed.")
        else:
            console.print(
                f"The new ledger of {shown(folder)} has {counted(made.rows, 'row')}. "
                f"Answers were taken over: {made.from_ledger} of the damaged ledger, "
                f"{made.from_files} of the files beside it.\n"
                f"The damaged one is kept as {shown(made.kept)}.\n"
                f"{_unknown_outputs(made)}"
                f"Ask what is missing with: captionmill run --resume --out {shown(folder)}"
            )


@app.command(rich_help_panel=RUNS)
def cancel(folder: RunFolderPath, redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """Withdraw the jobs that have no answer yet. `run --resume` asks them again."""
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
            make_console(as_json=False).print(
                f"{counted(withdrawn, 'job')} withdrawn; answers so far are kept."
            )
