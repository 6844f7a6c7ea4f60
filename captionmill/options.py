"""Command-line options that several commands share, in groups; knows no command."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import typer
from pydantic import TypeAdapter, ValidationError

from captionmill.config_file import read_config, replaces_what_is_asked
from contract.job import Detail, GenerationParameters, greedy_at_zero
from producer.question_planner import Flagged
from producer.sinks.kinds import KINDS
from producer.sinks.sink import SidecarName, SidecarPolicy, SinkOptions
from producer.sources import BadRowPolicy, Format, Quoting, SourceOptions
from producer.sources.parameters import parameter_columns
from producer.uploads import BUDGET_BYTES

DEFAULTS: Final = GenerationParameters()
QUESTIONS: Final = "What is asked"
SOURCE: Final = "Where rows come from"
GENERATION: Final = "How answers are generated"
SINKS: Final = "Where answers go"
RUNNING: Final = "How it runs"
LOCAL: Final = "Without a server"

RedisUrl = Annotated[
    str | None,
    typer.Option(
        "--redis",
        help="Server to use, as redis://…; else that of CAPTIONMILL_REDIS_URL.",
        rich_help_panel=RUNNING,
    ),
]
RunFolderPath = Annotated[Path, typer.Argument(help="Folder of the run, the --out of `run` or `submit`.")]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json/--no-json",
        help="Print progress and summary as lines of JSON on stdout.",
        rich_help_panel=RUNNING,
        hidden=True,
    ),
]
Add = Annotated[
    bool,
    typer.Option(
        "--add",
        help="Keep the sources of the run in --out, beside those named here.",
        rich_help_panel=RUNNING,
    ),
]
WindowSize = Annotated[
    int | None,
    typer.Option(
        "--window",
        min=1,
        help="Most jobs sent and not yet answered.",
        show_default="grows with the workers",
        rich_help_panel=RUNNING,
        hidden=True,
    ),
]
KeepGoing = Annotated[
    bool,
    typer.Option(
        "--keep-going/--no-keep-going",
        help="Go on even if the first jobs all fail for the same reason.",
        rich_help_panel=RUNNING,
        hidden=True,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Model folder, checkpoint folder, hub id or demo; with a server, the model that must answer, as "
        "model folder or id.",
        rich_help_panel=RUNNING,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=read_config,
        is_eager=True,
        help="File of options, as written by --write-config; options given here take precedence.",
        rich_help_panel=RUNNING,
    ),
]
OnFlag = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FLAG=NAME=VALUE",
        help="Ask once more for answers flagged truncated, repetition or empty, with a change, as in "
        "repetition=repetition_penalty=1.1; the better one is written; may be repeated.",
        rich_help_panel=GENERATION,
        hidden=True,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite/--no-overwrite",
        help="Replace output files that are not as the run wrote them.",
        rich_help_panel=SINKS,
        hidden=True,
    ),
]


def read_detail(text: str) -> Detail:
    """A value of --detail. Raises typer.BadParameter."""
    try:
        detail: Detail = TypeAdapter[Detail](Detail).validate_strings(text)
    except ValidationError:
        raise typer.BadParameter(f"{text!r} is not low, high, auto or a number of tiles.") from None
    return detail


def read_questions(given: str | Sequence[Mapping[str, Any]]) -> Path | Sequence[Mapping[str, Any]]:
    """A file name, or the tables in a file of options."""
    return Path(given) if isinstance(given, str) else given


def several(choices: list[str] | None) -> list[str] | None:
    """The values of --choice. Raises typer.BadParameter for a single one."""
    if choices is not None and len(choices) == 1:
        raise typer.BadParameter("there is one answer, and none to choose from; give at least two.")
    return choices


def _default(name: str) -> str:
    return str(getattr(DEFAULTS, name)).lower()


def _generation(name: str, help_text: str, *declarations: str, hidden: bool = True, **more: Any) -> Any:
    return typer.Option(
        *declarations,
        help=help_text,
        rich_help_panel=GENERATION,
        show_default=_default(name),
        hidden=hidden,
        **more,
    )


@dataclass(frozen=True)
class GenerationOptions:
    """Fields of GenerationParameters; None where an option was not given."""

    max_new_tokens: Annotated[
        int | None, _generation("max_new_tokens", "Most tokens of an answer.", hidden=False, min=1)
    ] = None
    min_new_tokens: Annotated[
        int | None, _generation("min_new_tokens", "Fewest tokens of an answer.", min=0)
    ] = None
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help="End an answer before this text; may be repeated.",
            rich_help_panel=GENERATION,
            hidden=True,
        ),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        _generation("repetition_penalty", "Above 1, tokens of the prompt and the answer become less likely."),
    ] = None
    no_repeat_ngram_size: Annotated[
        int | None,
        _generation(
            "no_repeat_ngram_size", "No N tokens in a row occur twice in an answer; 0 allows all.", min=0
        ),
    ] = None
    visual_tokens: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Keep at most N image tokens of each image: faster, less exact.",
            show_default="all",
            rich_help_panel=GENERATION,
            hidden=True,
        ),
    ] = None
    num_return_sequences: Annotated[
        int | None,
        _generation(
            "num_return_sequences",
            "Beams or samples that an answer lists; above 1 it has alternatives.",
            min=1,
            max=64,
        ),
    ] = None
    length_penalty: Annotated[
        float | None,
        _generation("length_penalty", "Above 0, longer beams and choices score higher."),
    ] = None
    num_beams: Annotated[
        int | None,
        _generation("num_beams", "Beams of a beam search; 1 is no beam search.", hidden=False, min=1, max=64),
    ] = None
    early_stopping: Annotated[
        Literal["false", "true", "never"] | None,
        _generation("early_stopping", "Whether a beam search ends when num_beams beams are finished."),
    ] = None
    do_sample: Annotated[
        bool | None,
        _generation("do_sample", "Draw tokens at random.", "--do-sample/--no-sample", hidden=False),
    ] = None
    temperature: Annotated[
        float | None,
        _generation("temperature", "Above 1, draw more randomly; below 1, less; 0 is greedy."),
    ] = None
    top_k: Annotated[
        int | None, _generation("top_k", "Draw from the N most likely tokens only; 0 keeps all.", min=0)
    ] = None
    top_p: Annotated[
        float | None,
        _generation("top_p", "Draw from the most likely tokens that together have this probability."),
    ] = None
    min_p: Annotated[
        float | None,
        _generation(
            "min_p", "Draw from tokens with at least this share of the most likely token's probability."
        ),
    ] = None
    seed: Annotated[
        int | None, _generation("seed", "The same seed draws the same answer to the same question.", min=0)
    ] = None

    def changes(self) -> dict[str, Any]:
        """The given options, as fields of GenerationParameters."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        changes = {name: value for name, value in given.items() if value is not None}
        if self.early_stopping is not None:
            words: dict[str, bool | str] = {"false": False, "true": True, "never": "never"}
            changes["early_stopping"] = words[self.early_stopping]
        return greedy_at_zero(changes)


def read_on_flag(given: Sequence[str], generation: GenerationOptions) -> dict[Flagged, dict[str, Any]]:
    """Flag → changed parameters. Raises typer.BadParameter, and ValidationError for a parameter's value."""
    found: dict[Flagged, dict[str, Any]] = {}
    for one in given:
        flag, _, change = one.partition("=")
        name, separator, value = change.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if flag not in tuple(Flagged) or not separator or name not in GenerationParameters.model_fields:
            raise typer.BadParameter(
                f'"{one}" must be like repetition=repetition_penalty=1.1, a flag '
                f"({', '.join(Flagged)}), a parameter and its value."
            )
        try:
            found.setdefault(Flagged(flag), {})[name] = json.loads(value)
        except ValueError:
            found.setdefault(Flagged(flag), {})[name] = value
    for changes in found.values():
        GenerationParameters.model_validate(generation.changes() | changes)
    return found


@dataclass(frozen=True)
class QuestionOptions:
    """The questions asked of every row without a question of its own."""

    question: Annotated[
        list[str] | None,
        typer.Option(
            callback=replaces_what_is_asked,
            help="Question about every image; {column} is replaced by its value; may be repeated.",
            rich_help_panel=QUESTIONS,
        ),
    ] = None
    questions: Annotated[
        Any,
        typer.Option(
            parser=read_questions,
            metavar="PATH",
            callback=replaces_what_is_asked,
            help="File of questions: .jsonl, .json or .csv, with id, text, choices and parameters.",
            rich_help_panel=QUESTIONS,
        ),
    ] = None
    choice: Annotated[
        list[str] | None,
        typer.Option(
            callback=several,
            help="Allowed answer to each --question; give at least two.",
            rich_help_panel=QUESTIONS,
        ),
    ] = None
    detail: Annotated[
        Any,
        typer.Option(
            parser=read_detail,
            metavar="low|high|auto|N",
            help="How closely to look: low (once), high (every tile), auto (as many as it fills) or N tiles.",
            rich_help_panel=QUESTIONS,
            hidden=True,
        ),
    ] = "high"


@dataclass(frozen=True)
class SourceChoices:
    """How sources are read."""

    recursive: Annotated[
        bool,
        typer.Option(
            "--recursive/--no-recursive",
            help="Also read images in subfolders.",
            rich_help_panel=SOURCE,
        ),
    ] = False
    sniff: Annotated[
        bool,
        typer.Option(
            "--sniff/--no-sniff",
            help="Also read files with other suffixes if their first bytes are an image's.",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = False
    shard_ids: Annotated[
        bool,
        typer.Option(
            "--shard-ids/--no-shard-ids",
            help="Use SHARD/KEY as the id of a sample, for shards with equal keys.",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = False
    delimiter: Annotated[
        str | None,
        typer.Option(
            metavar="CHARACTER",
            help="Character between cells of CSV and TSV, or the word tab.",
            show_default="by the header",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = None
    quoting: Annotated[
        Quoting | None,
        typer.Option(
            help="Whether cells of CSV and TSV may be in quotes.",
            show_default="quotes in CSV, none in TSV",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = None
    encoding: Annotated[
        str | None,
        typer.Option(
            help="Encoding of a text source, such as cp1252 or shift_jis.",
            show_default="UTF-8, or UTF-16 by its mark",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = None
    source_format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help=f"Form of the source: {', '.join(get_args(Format))}.",
            show_default="by its look",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = None
    image_column: Annotated[
        str | None, typer.Option(help="Column of the image.", rich_help_panel=SOURCE, hidden=True)
    ] = None
    question_column: Annotated[
        str | None, typer.Option(help="Column of the question.", rich_help_panel=SOURCE, hidden=True)
    ] = None
    id_column: Annotated[
        str | None, typer.Option(help="Column of the id.", rich_help_panel=SOURCE, hidden=True)
    ] = None
    image_root: Annotated[
        str | None,
        typer.Option(
            help="Folder or URL that relative image names start from.",
            show_default="the source's folder",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = None
    split: Annotated[
        str | None,
        typer.Option(help="Split of a dataset with several splits.", rich_help_panel=SOURCE, hidden=True),
    ] = None
    parameters: Annotated[
        str | None,
        typer.Option(
            metavar="none|all|NAME,…",
            help="Columns with parameters of their rows, such as seed or stop.",
            show_default="columns named like a parameter, where the values fit",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = None
    text_only: Annotated[
        bool,
        typer.Option(
            "--text-only/--no-text-only",
            help="Also ask rows that have no image.",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = False
    bad_rows: Annotated[
        BadRowPolicy,
        typer.Option(
            help="Rows that cannot be asked: refuse the run and list them, or make them failures (skip).",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = "refuse"
    own_questions: Annotated[
        bool,
        typer.Option(
            "--own-questions/--only-run-questions",
            help="Whether rows ask their own questions, or only the run's.",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = True

    def options(self) -> SourceOptions:
        """The options as producer.sources takes them. Raises SourceError."""
        return SourceOptions(
            recursive=self.recursive,
            sniff=self.sniff,
            shard_ids=self.shard_ids,
            delimiter=self.delimiter,
            quoting=self.quoting,
            encoding=self.encoding,
            format=self.source_format,
            image_column=self.image_column,
            question_column=self.question_column,
            id_column=self.id_column,
            image_root=self.image_root,
            split=self.split,
            parameters=None if self.parameters is None else parameter_columns(self.parameters),
            text_only=self.text_only,
            own_questions=self.own_questions,
        )


_SINK_OPTIONS: Final = {"caption_question": "question", "sidecars": "sidecar_policy"}
"""Option → field of SinkOptions, where the names differ."""


@dataclass(frozen=True)
class OutputChoices:
    """Where answers go."""

    sink: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[:PATH]",
            help=f"Form of output: {', '.join(KINDS)}; may be repeated.",
            show_default="jsonl",
            rich_help_panel=SINKS,
        ),
    ] = None
    sidecars: Annotated[
        SidecarPolicy,
        typer.Option(
            help="What to do with a sidecar that the run did not write.", rich_help_panel=SINKS, hidden=True
        ),
    ] = "skip"
    sidecar_name: Annotated[
        SidecarName,
        typer.Option(
            help="Name of the sidecar of a.jpg: a.txt (stem) or a.jpg.txt (full).",
            rich_help_panel=SINKS,
            hidden=True,
        ),
    ] = "stem"
    final_newline: Annotated[
        bool,
        typer.Option(
            "--final-newline/--no-final-newline",
            help="Whether sidecars end in a newline.",
            rich_help_panel=SINKS,
            hidden=True,
        ),
    ] = True
    overwrite: Overwrite = False
    caption_question: Annotated[
        str | None,
        typer.Option(
            help="Id of the question whose answer is the caption.",
            show_default="all, joined",
            rich_help_panel=SINKS,
            hidden=True,
        ),
    ] = None
    caption_extension: Annotated[
        str, typer.Option(help="Extension of sidecars.", rich_help_panel=SINKS, hidden=True)
    ] = ".txt"
    prefix: Annotated[
        str, typer.Option(help="Text before each caption.", rich_help_panel=SINKS, hidden=True)
    ] = ""
    suffix: Annotated[
        str, typer.Option(help="Text after each caption.", rich_help_panel=SINKS, hidden=True)
    ] = ""
    separator: Annotated[
        str,
        typer.Option(
            help="Text between the answers of a caption.",
            rich_help_panel=SINKS,
            show_default="newline",
            hidden=True,
        ),
    ] = "\n"
    long_table: Annotated[
        bool,
        typer.Option(
            "--long-table/--no-long-table",
            help="csv and tsv: one line for each question instead of one column.",
            rich_help_panel=SINKS,
            hidden=True,
        ),
    ] = False
    raw_cells: Annotated[
        bool,
        typer.Option(
            "--raw-cells/--no-raw-cells",
            help="csv and tsv: no apostrophe before cells that look like formulas.",
            rich_help_panel=SINKS,
            hidden=True,
        ),
    ] = False
    text_column: Annotated[
        str, typer.Option(help="hf: column of the caption.", rich_help_panel=SINKS, hidden=True)
    ] = "text"
    vqa_columns: Annotated[
        bool,
        typer.Option(
            "--vqa-columns/--no-vqa-columns",
            help="hf: write columns question and answer.",
            rich_help_panel=SINKS,
            hidden=True,
        ),
    ] = False
    samples_per_shard: Annotated[
        int,
        typer.Option(min=1, help="webdataset: samples per shard.", rich_help_panel=SINKS, hidden=True),
    ] = 1000
    image_prefix: Annotated[
        str,
        typer.Option(
            help="label-studio: text before each image name, such as /data/local-files/?d=",
            rich_help_panel=SINKS,
            hidden=True,
        ),
    ] = ""

    def options(self) -> SinkOptions:
        """The options as producer.sinks takes them. Raises SinkError."""
        every = {field.name for field in fields(OutputChoices)}
        return self.changed(SinkOptions(), every)

    def changed(self, options: SinkOptions, given: Collection[str]) -> SinkOptions:
        """`options` with the values of the options named in `given`. Raises SinkError."""
        changes = {
            _SINK_OPTIONS.get(name, name): getattr(self, name)
            for name in given
            if name not in ("sink", "overwrite")
        }
        return replace(options, **changes)


@dataclass(frozen=True)
class SinkChoices(OutputChoices):
    """Where answers go, which of them exist already, and how images travel."""

    skip_answered: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Skip images that have an answer in FILE (JSONL, CSV, …); may be repeated.",
            rich_help_panel=SINKS,
            hidden=True,
        ),
    ] = None
    ship: Annotated[
        bool,
        typer.Option(
            "--ship/--no-ship",
            help="Send images through the store, for workers that cannot read the files.",
            rich_help_panel=RUNNING,
            hidden=True,
        ),
    ] = False
    ship_mib: Annotated[
        int,
        typer.Option(
            min=1, help="Most MiB of shipped images in the store.", rich_help_panel=RUNNING, hidden=True
        ),
    ] = BUDGET_BYTES // 2**20


@dataclass(frozen=True)
class LocalOptions:
    """The workers that a command starts if no server is named."""

    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Workers to start; workers on the CPU share its cores.",
            show_default="one for each --device",
            rich_help_panel=LOCAL,
        ),
    ] = None
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="OpenVINO device of a worker: CPU, GPU, GPU.1, …; may be repeated.",
            show_default="CPU",
            rich_help_panel=LOCAL,
            hidden=True,
        ),
    ] = None
