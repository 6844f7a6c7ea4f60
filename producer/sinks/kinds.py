"""The sinks by their names on the command line; knows of each only how to open it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from producer.rows import ReadImage
from producer.sinks.image_folder import image_folder
from producer.sinks.json_lists import (
    Entries,
    coco_entries,
    json_list,
    label_studio_entries,
    llava_entries,
    vqa_entries,
)
from producer.sinks.lines import (
    LinesSink,
    answer_lines,
    failure_lines,
    openai_error_lines,
    openai_output_lines,
)
from producer.sinks.parquet import require_pyarrow, write_parquet
from producer.sinks.shards import ShardsSink
from producer.sinks.sidecar import SidecarSink
from producer.sinks.sink import Sink, SinkError, SinkOptions
from producer.sinks.table import TableSink
from producer.sinks.whole import WholeFileSink
from producer.sources import shown

DEFAULT_KIND: Final = "jsonl"
FAILURES_KIND: Final = "failures"
SIDECAR_KIND: Final = "sidecar"
SIDECAR_RECORD: Final = "sidecars.sqlite"


@dataclass(frozen=True)
class _Asked:
    name: str
    kind: str
    path: Path
    """The file; of sidecars the folder to mirror into."""
    given: bool
    """Whether the path was named, rather than the default."""
    folder: Path
    """The run's."""
    options: SinkOptions
    read_image: ReadImage


def _openai(asked: _Asked) -> Sink:
    errors = asked.path.with_name(f"{asked.path.stem}_errors{asked.path.suffix}")
    return LinesSink(asked.name, [(asked.path, openai_output_lines), (errors, openai_error_lines)])


def _parquet(asked: _Asked) -> Sink:
    require_pyarrow()
    return WholeFileSink(asked.name, asked.path, write_parquet)


def _sidecar(asked: _Asked) -> Sink:
    root = asked.path if asked.given else None
    return SidecarSink(asked.name, root, asked.folder / SIDECAR_RECORD, asked.options)


def _hf(asked: _Asked) -> Sink:
    """Beside images a metadata.jsonl may be a person's work."""
    written = image_folder(asked.path, asked.options)
    return WholeFileSink(asked.name, asked.path, written, replaces=not asked.given)


def _list_of(entries: Entries) -> Callable[[_Asked], Sink]:
    return lambda asked: WholeFileSink(asked.name, asked.path, json_list(entries, asked.options))


def _table(asked: _Asked) -> Sink:
    tabs = asked.kind == "tsv" or asked.path.suffix.lower() in (".tsv", ".tab")
    return TableSink(asked.name, asked.path, tabs=tabs, long=asked.options.long_table)


_KINDS: Final[dict[str, tuple[str, Callable[[_Asked], Sink]]]] = {
    "jsonl": ("answers.jsonl", lambda asked: LinesSink(asked.name, [(asked.path, answer_lines)])),
    "failures": ("failures.jsonl", lambda asked: LinesSink(asked.name, [(asked.path, failure_lines)])),
    "csv": ("answers.csv", _table),
    "tsv": ("answers.tsv", _table),
    "parquet": ("answers.parquet", _parquet),
    "sidecar": ("", _sidecar),
    "hf": ("metadata.jsonl", _hf),
    "webdataset": (
        "answers.tar",
        lambda asked: ShardsSink(asked.name, asked.path, asked.options, asked.read_image),
    ),
    "coco": ("coco.json", _list_of(coco_entries)),
    "llava": ("llava.json", _list_of(llava_entries)),
    "vqa": ("vqa.json", _list_of(vqa_entries)),
    "label-studio": ("label_studio.json", _list_of(label_studio_entries)),
    "openai": ("openai_output.jsonl", _openai),
}
"""Kind → its default file in the run's folder, and how it is opened."""

KINDS: Final = tuple(_KINDS)


def open_sinks(specs: Sequence[str], folder: Path, options: SinkOptions, read_image: ReadImage) -> list[Sink]:
    """The sinks for specs KIND or KIND:PATH (jsonl without any), and failures.jsonl in any case.

    Makes the folders of their files; writes nothing until `resume`. Raises SinkError for what cannot be
    written as asked.
    """
    sinks: list[Sink] = []
    paths: dict[Path, str] = {}
    asked_for = list(specs or [DEFAULT_KIND])
    if not any(spec.partition(":")[0] == FAILURES_KIND for spec in asked_for):
        asked_for.append(FAILURES_KIND)
    for spec in asked_for:
        asked = _asked(spec, folder, options, read_image)
        for path in _paths(asked):
            if path in paths:
                raise SinkError(
                    f'"{paths[path]}" and "{spec}" would write the same file; name a path for one of them.'
                )
            paths[path] = spec
        _make_folder(asked)
        sinks.append(_KINDS[asked.kind][1](asked))
    return sinks


def _asked(spec: str, folder: Path, options: SinkOptions, read_image: ReadImage) -> _Asked:
    kind, separator, given = spec.partition(":")
    if kind not in _KINDS:
        raise SinkError(f'There is no output "{kind}"; there are {", ".join(KINDS)}.')
    if separator and not given:
        raise SinkError(f'"{spec}" names no path after the colon.')
    path = Path(given) if given else folder / _KINDS[kind][0]
    return _Asked(spec, kind, Path(os.path.abspath(path)), bool(given), folder, options, read_image)


def _paths(asked: _Asked) -> list[Path]:
    """All sidecars have one record, so there is one such sink."""
    if asked.kind == SIDECAR_KIND:
        return [Path(SIDECAR_KIND)]
    path = Path(asked.path.parent.resolve(), asked.path.name)
    if asked.kind == "openai":
        return [path, path.with_name(f"{path.stem}_errors{path.suffix}")]
    return [path]


def _make_folder(asked: _Asked) -> None:
    is_folder = asked.kind == SIDECAR_KIND
    if not is_folder and asked.path.is_dir():
        raise SinkError(f"{shown(asked.path)} is a folder; name a file in it.")
    folder = asked.path if is_folder else asked.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        asked.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"The folder {shown(folder)} cannot be made: {error.strerror}.") from None
