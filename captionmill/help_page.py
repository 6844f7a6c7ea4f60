"""Help pages in panels: a short one, and one with every option; knows no command.

An option declared with `hidden=True` is on the second page only. It is still completed and suggested.
"""

import copy
import re
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

ALL: Final = "--help-all"
ARGUMENTS: Final = "Arguments"
OPTIONS: Final = "Options"
COMMANDS: Final = "Commands"
METAVARS: Final = {int: "N", float: "NUMBER", str: "TEXT", list[str]: "TEXT", Path: "PATH"}
"""Type → placeholder for a value on a help page."""
PLAINER: Final = (
    (r" *\[default: (no-[^\];]*|False)\]$", ""),
    (r"\[default: \((.*)\)(?=[;\]])", r"[default: \1"),
    (r"x>=(\S+)\]$", r"from \1]"),
    (r"(\S+)<=x<=(\S+)\]$", r"\1 to \2]"),
)
"""Pattern of Typer's remark on a value → how it reads here."""


class PanelledCommand(TyperCommand):
    """A command whose help pages are grouped by `rich_help_panel`, and which refuses empty paths."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._advanced: set[str] = set()
        self._help_all: TyperOption | None = None
        for param in self.params:
            if not isinstance(param, TyperOption):
                continue
            if param.hidden:
                self._advanced.add(param.name)
                param.hidden = False
            if param.metavar is None:
                param.metavar = METAVARS.get(param.type_descriptor.annotation)
        for param in self.params:
            if isinstance(param, TyperOption | TyperArgument) and param.type_descriptor.annotation is Path:
                _require_a_name(param)

    def get_params(self, ctx: Any) -> list[Any]:
        """The function's parameters, and the options that show help pages."""
        params: list[Any] = super().get_params(ctx)
        if self._advanced:
            params.append(self._option_for_all(ctx))
        return params

    def _option_for_all(self, ctx: Any) -> TyperOption:
        """--help-all; always the same object, as the parser compares objects."""
        if self._help_all is None:
            option = copy.copy(self.get_help_option(ctx))
            assert option is not None
            option.name, option.opts = "help_all", [ALL]
            count = sum(isinstance(param, TyperOption) for param in self.params)
            option.help = f"Show all {count} options and exit."
            option.callback = _show_all
            self._help_all = option
        return self._help_all

    def format_options(self, ctx: Any, formatter: Any) -> None:
        everything = ctx.meta.get(ALL, False)
        panels: dict[str, list[tuple[str, str]]] = {ARGUMENTS: []}
        last: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = _record(param, ctx)
            if record is None or (param.name in self._advanced and not everything):
                continue
            panel = param.rich_help_panel or (ARGUMENTS if isinstance(param, TyperArgument) else OPTIONS)
            (last if panel == OPTIONS else panels.setdefault(panel, [])).append(record)
        for panel, records in (panels | {OPTIONS: last}).items():
            if records:
                with formatter.section(panel):
                    formatter.write_dl(records)


class PanelledGroup(TyperGroup):
    """A group whose help page shows its commands in panels."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if isinstance(command, TyperCommand | TyperGroup) and not command.hidden:
                first_line = (command.help or "").partition("\n\n")[0].replace("\n", " ")
                panels.setdefault(command.rich_help_panel or COMMANDS, []).append((name, first_line))
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)


def _require_a_name(param: TyperOption | TyperArgument) -> None:
    """Make `param` refuse an empty text, which Path() would take for the current folder."""
    consume = param.consume_value

    def consume_value(ctx: Any, opts: Any) -> Any:
        found = consume(ctx, opts)
        if found[0] == "":
            raise typer.BadParameter("it is empty; name a file or folder.", ctx=ctx, param=param)
        return found

    param.consume_value = consume_value  # type: ignore[method-assign]


def _show_all(ctx: Any, param: Any, value: bool) -> None:  # noqa: ARG001
    if value and not ctx.resilient_parsing:
        ctx.meta[ALL] = True
        typer.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def _record(param: Any, ctx: Any) -> tuple[str, str] | None:
    """The two columns of an option: its names and placeholder, and its help."""
    record = param.get_help_record(ctx)
    if record is None:
        return None
    names, told = record
    kind = r"" if isinstance(param, TyperArgument) else r"\1"
    names = re.sub(r" ?<([^<>]*)>$", kind and rf" {kind}", names)
    for pattern, plain in PLAINER:
        told = re.sub(pattern, plain, told)
    return names, told
