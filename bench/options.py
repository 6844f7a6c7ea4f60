"""Options and refusals that several measurements share; measures nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Console

from bench.sizes import SizeName

REFUSED_EXIT_CODE: Final = 2
DEMO: Final = Path(__file__).parents[1] / "demo"
DEMO_FOLDER: Final = DEMO / "model" / "openvino"
OUT: Final = Path("bench-out")

Out = Annotated[Path, typer.Option(help="Folder for models, environments and results.")]
ModelSize = Annotated[SizeName, typer.Option(help="Shape of the random model.")]
ModelFolder = Annotated[Path, typer.Option(help="Model folder that the worker loads.")]

progress: Final = Console(stderr=True)


def chosen(what: str, named: str | None, known: Sequence[str], separator: str = ",") -> list[str]:
    """The names in `named`, all of `known` for None; an unknown name ends the command."""
    names = list(known) if named is None else [name.strip() for name in named.split(separator)]
    for name in names:
        if name not in known:
            refuse(f"There is no {name!r} among the {what}; there are {f'{separator} '.join(known)}.")
    return names


def refuse(sentence: str) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(REFUSED_EXIT_CODE)
