"""Opens sinks by their names on the command line; knows none of their formats."""

import os
import tempfile
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
    FailuresSink,
    Lines,
    LinesSink,
    answer_lines,
    openai_error_lines,
    openai_output_lines,
)
from producer.sinks.output_record import OutputFile, OutputRecord
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
OF_THE_RUN: Final = (
    "ledger.sqlite",
    SIDECAR_RECORD,
    "feeder.lock",
    "collector.lock",
    "submission.json",
    "contact_sheet.html",
)
"""Beginnings of the names of a run folder's own files."""
IMAGE_FOLDER_KIND: Final = "hf"
METADATA: Final = "metadata.jsonl"
"""The only file name that the datasets library reads beside images."""


@dataclass(frozen=True)
class _Asked:
    name: str
    kind: str
    path: Path
    """The file; for sidecars the root of their folders."""
    given: bool
    """Whether the path was given, and is not the default."""
    folder: Path
    """The run folder."""
    options: SinkOptions
    read_image: ReadImage
    record: OutputRecord

    def file(self) -> OutputFile:
        return OutputFile(self.path, self.record, self.kind)


def _openai(asked: _Asked) -> Sink:
    errors = OutputFile(_errors_path(asked.path), asked.record, asked.kind)
    return LinesSink(asked.name, [(asked.file(), openai_output_lines), (errors, openai_error_lines)])


def _errors_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}_errors{path.suffix}")


def _parquet(asked: _Asked) -> Sink:
    require_pyarrow()
    return WholeFileSink(asked.name, asked.file(), write_parquet)


def _sidecar(asked: _Asked) -> Sink:
    root = asked.path if asked.given else None
    return SidecarSink(asked.name, root, asked.folder / SIDECAR_RECORD, asked.options)


def _hf(asked: _Asked) -> Sink:
    if asked.path.name != METADATA:
        raise SinkError(
            f"The datasets library reads {METADATA} beside images and no other name: give "
            f"--sink {IMAGE_FOLDER_KIND}:{shown(asked.path.parent / METADATA)}."
        )
    return WholeFileSink(asked.name, asked.file(), image_folder(asked.path, asked.options))


def _list_of(entries: Entries) -> Callable[[_Asked], Sink]:
    return lambda asked: WholeFileSink(asked.name, asked.file(), json_list(entries, asked.options))


def _lines(lines: Lines) -> Callable[[_Asked], Sink]:
    return lambda asked: LinesSink(asked.name, [(asked.file(), lines)])


def _table(asked: _Asked) -> Sink:
    tabs = asked.kind == "tsv" or asked.path.suffix.lower() in (".tsv", ".tab")
    options = asked.options
    return TableSink(
        asked.name, asked.file(), tabs=tabs, long=options.long_table, raw_cells=options.raw_cells
    )


_KINDS: Final[dict[str, tuple[str, Callable[[_Asked], Sink]]]] = {
    "jsonl": ("answers.jsonl", _lines(answer_lines)),
    "failures": ("failures.jsonl", lambda asked: FailuresSink(asked.name, asked.file())),
    "csv": ("answers.csv", _table),
    "tsv": ("answers.tsv", _table),
    "parquet": ("answers.parquet", _parquet),
    "sidecar": ("", _sidecar),
    "hf": (METADATA, _hf),
    "webdataset": (
        "answers.tar",
        lambda asked: ShardsSink(asked.name, asked.path, asked.options, asked.read_image, asked.record),
    ),
    "coco": ("coco.json", _list_of(coco_entries)),
    "llava": ("llava.json", _list_of(llava_entries)),
    "vqa": ("vqa.json", _list_of(vqa_entries)),
    "label-studio": ("label_studio.json", _list_of(label_studio_entries)),
    "openai": ("openai_output.jsonl", _openai),
}
"""Kind → its default file in the run folder, and the function that opens it."""

KINDS: Final = tuple(_KINDS)


def make_sinks(
    specs: Sequence[str], folder: Path, options: SinkOptions, read_image: ReadImage, record: OutputRecord
) -> list[Sink]:
    """The sinks for specs KIND or KIND:PATH (jsonl without any), and failures.jsonl in any case.

    Checks that they can be written, and changes nothing. Raises SinkError for an impossible output.
    """
    return [sink for _, sink in _made(specs, folder, options, read_image, record)]


def open_sinks(
    specs: Sequence[str], folder: Path, options: SinkOptions, read_image: ReadImage, record: OutputRecord
) -> list[Sink]:
    """The same sinks; makes the folders of their files. Writes nothing until `resume`."""
    sinks = []
    for asked, sink in _made(specs, folder, options, read_image, record):
        try:
            _folder_of(asked).mkdir(parents=True, exist_ok=True)
            asked.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(
                f"The folder {shown(_folder_of(asked))} cannot be made: {error.strerror}."
            ) from None
        sinks.append(sink)
    return sinks


def beside_images(specs: Sequence[str], images: Path | None, source: str) -> tuple[str, ...]:
    """The same specs, with a path for the sink whose file has to be beside the images.

    `images` is the folder that all image files are in or below. Raises SinkError if there is none.
    """
    placed = []
    for spec in specs:
        if spec == IMAGE_FOLDER_KIND:
            if images is None:
                raise SinkError(
                    f"--sink {spec} writes {METADATA} beside the images, and {shown(source)} is no folder of "
                    f"image files: name their folder with --sink {spec}:FOLDER/{METADATA}."
                )
            placed.append(f"{spec}:{images / METADATA}")
        else:
            placed.append(spec)
    return tuple(placed)


def _made(
    specs: Sequence[str], folder: Path, options: SinkOptions, read_image: ReadImage, record: OutputRecord
) -> list[tuple[_Asked, Sink]]:
    made: list[tuple[_Asked, Sink]] = []
    paths: dict[Path, str] = {}
    asked_for = list(specs or [DEFAULT_KIND])
    if not any(spec.partition(":")[0] == FAILURES_KIND for spec in asked_for):
        asked_for.append(FAILURES_KIND)
    for spec in asked_for:
        asked = _asked(spec, folder, options, read_image, record)
        for path in _paths(asked):
            if path in paths:
                raise SinkError(
                    f'"{paths[path]}" and "{spec}" would write the same file; name a path for one of them.'
                )
            paths[path] = spec
        sink = _KINDS[asked.kind][1](asked)
        _check_place(asked)
        made.append((asked, sink))
    return made


def answer_paths(specs: Sequence[str], folder: Path) -> list[Path]:
    """The specs' files that have complete rows with their answers."""
    kinds = [spec.partition(":")[::2] for spec in specs or [DEFAULT_KIND]]
    return [
        Path(os.path.abspath(given or folder / _KINDS[DEFAULT_KIND][0]))
        for kind, given in kinds
        if kind == DEFAULT_KIND
    ]


def _asked(
    spec: str, folder: Path, options: SinkOptions, read_image: ReadImage, record: OutputRecord
) -> _Asked:
    kind, separator, given = spec.partition(":")
    if kind not in _KINDS:
        raise SinkError(f'There is no output "{kind}"; there are {", ".join(KINDS)}.')
    if separator and not given:
        raise SinkError(f'"{spec}" names no path after the colon.')
    path = Path(os.path.abspath(given or folder / _KINDS[kind][0]))
    if path.parent == Path(os.path.abspath(folder)) and path.name.startswith(OF_THE_RUN):
        raise SinkError(f"{shown(path)} is a file of the run itself: name another one for {kind}.")
    return _Asked(spec, kind, path, bool(given), folder, options, read_image, record)


def _paths(asked: _Asked) -> list[Path]:
    """The files that a sink writes. All sidecars count as one, as there is one such sink in a run."""
    if asked.kind == SIDECAR_KIND:
        return [Path(SIDECAR_KIND)]
    path = Path(asked.path.parent.resolve(), asked.path.name)
    if asked.kind == "openai":
        return [path, _errors_path(path)]
    return [path]


def _folder_of(asked: _Asked) -> Path:
    return asked.path if asked.kind == SIDECAR_KIND else asked.path.parent


def _check_place(asked: _Asked) -> None:
    """Raises SinkError if no file can be made in the sink's folder. Leaves no file behind."""
    if asked.kind != SIDECAR_KIND and asked.path.is_dir():
        raise SinkError(f"{shown(asked.path)} is a folder; name a file in it.")
    folder = there = _folder_of(asked)
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise SinkError(f"The folder {shown(folder)} cannot be made: {shown(there)} is a file.")
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise SinkError(
            f"Nothing can be written in {shown(there)} ({error.strerror}): name another path with "
            f"--sink {asked.kind}:PATH."
        ) from None
