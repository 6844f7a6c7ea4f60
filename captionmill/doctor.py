"""The command `doctor`: checks what a run or a worker needs on this machine; the checks are other files'."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from captionmill import machine_findings, site_findings
from captionmill.app import SITE, app
from captionmill.exits import EXIT_FAILURES, refuse
from captionmill.finding import Finding, careful
from captionmill.model_cache import at_hand
from captionmill.model_findings import model as check_model
from captionmill.options import RedisUrl
from producer.run_console import event

Check = Callable[[], Iterable[Finding]]
STYLES: Final = {"ok": "green", "note": "yellow", "do": "bold red"}


@app.command(rich_help_panel=SITE)
def doctor(
    model: Annotated[
        str | None,
        typer.Option(
            help="Also check a model: a model folder, a kept model's name or demo.",
            metavar="MODEL",
            show_default="CAPTIONMILL_MODEL_FOLDER, if set",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Device to run the model on.",
            metavar="TEXT",
            show_default="CAPTIONMILL_DEVICE, else CPU",
        ),
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Hash all files of the model and compile it.", metavar="")
    ] = False,
    redis_url: RedisUrl = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="A line of JSON for each finding.", metavar="")
    ] = False,
) -> None:
    """Check what a run or a worker needs on this machine, and say what to do.

    Each line is "ok", "note" (nothing to do) or "do" (something to do).

    Exit code: 0 if there is nothing to do, 1 otherwise.
    """
    named = model or site_findings.default_model()
    if deep and not named:
        refuse("--deep is for a model: name it with --model.")
    console = Console(markup=False, highlight=False)
    needed = 0
    for title, checks in _sections(redis_url, named, device or site_findings.default_device(), deep=deep):
        findings = []
        for finding in chain.from_iterable(careful(title, check) for check in checks):
            findings.append(finding)
            if as_json:
                event("finding", {"section": title, **finding.as_fields()})
            elif not console.is_terminal:
                print(_line(finding), flush=True)
        needed += sum(finding.state == "do" for finding in findings)
        if console.is_terminal and not as_json:
            console.print(_table(title, findings))
    if as_json:
        event("doctor", {"to_do": needed})
    else:
        console.print(f"{needed} to do." if needed else "Nothing has to be done.")
    raise typer.Exit(EXIT_FAILURES if needed else 0)


def _sections(
    redis_url: str | None, model: str | None, device: str, *, deep: bool
) -> Iterator[tuple[str, tuple[Check, ...]]]:
    yield "Python", (machine_findings.python, machine_findings.packages)
    yield "Extras", (machine_findings.extras,)
    machine = machine_findings
    yield "Machine", (machine.processor, machine.cores, machine.memory, machine.disk, machine.devices)
    yield "Settings", (site_findings.settings,)
    yield "Server and workers", (partial(site_findings.server, redis_url),)
    yield "Models", (site_findings.kept_models,)
    if model:
        yield f"Model {model}", (partial(check_model, at_hand(model), device, deep=deep),)


def _line(finding: Finding) -> str:
    remedy = f" -> {finding.remedy}" if finding.remedy else ""
    return f"{finding.state:<4}  {finding.subject}: {finding.found}{remedy}"


def _table(title: str, findings: Iterable[Finding]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, expand=True)
    table.add_column(width=4)
    table.add_column(max_width=34)
    table.add_column(ratio=1)
    for finding in findings:
        told = Text(finding.found)
        if finding.remedy:
            told.append(f"\n→ {finding.remedy}", style=STYLES[finding.state])
        table.add_row(Text(finding.state, style=STYLES[finding.state]), Text(finding.subject), told)
    return table
