"""Groups of command-line options that several commands share; knows no command."""

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
        help="The server to use, as redis://…; else that of CAPTIONMILL_REDIS_URL.",
        rich_help_panel=RUNNING,
    ),
]
RunFolderPath = Annotated[Path, typer.Argument(help="The run's folder: --out of `run` or `submit`.")]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json/--no-json",
        help="Progress and the summary are printed as lines of JSON on stdout.",
        rich_help_panel=RUNNING,
        hidden=True,
    ),
]
Add = Annotated[
    bool,
    typer.Option(
        "--add",
        help="The sources of the run in --out are kept beside those named here.",
        rich_help_panel=RUNNING,
    ),
]
WindowSize = Annotated[
    int | None,
    typer.Option(
        "--window",
        min=1,
        help="Most jobs that are sent and not yet answered.",
        show_default="grows with the workers",
        rich_help_panel=RUNNING,
        hidden=True,
    ),
]
KeepGoing = Annotated[
    bool,
    typer.Option(
        "--keep-going/--no-keep-going",
        help="The run goes on even when its first jobs all fail for one reason.",
        rich_help_panel=RUNNING,
        hidden=True,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Model folder, checkpoint folder, hub id or demo; with a server, model folder or id that must "
        "answer.",
        rich_help_panel=RUNNING,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=read_config,
        is_eager=True,
        help="A file of options, as --write-config writes it; options given here go first.",
        rich_help_panel=RUNNING,
    ),
]
OnFlag = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FLAG=NAME=VALUE",
        help="An answer flagged truncated, repetition or empty is asked for once more, changed as in "
        "repetition=repetition_penalty=1.1; the better one is written; may be repeated.",
        rich_help_panel=GENERATION,
        hidden=True,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite/--no-overwrite",
        help="Output files that are there and not as the run wrote them are replaced.",
        rich_help_panel=SINKS,
        hidden=True,
    ),
]


def read_detail(text: str) -> Detail:
    """Raises typer.BadParameter."""
    try:
        detail: Detail = TypeAdapter[Detail](Detail).validate_strings(text)
    except ValidationError:
        raise typer.BadParameter(f"{text!r} is neither low nor high nor a number of tiles.") from None
    return detail


def read_questions(given: str | Sequence[Mapping[str, Any]]) -> Path | Sequence[Mapping[str, Any]]:
    """A file's name, or the tables that stand in a file of options."""
    return Path(given) if isinstance(given, str) else given


def several(choices: list[str] | None) -> list[str] | None:
    """Those of --choice. Raises typer.BadParameter."""
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
    """Fields of GenerationParameters; None is what was not given."""

    max_new_tokens: Annotated[
        int | None, _generation("max_new_tokens", "Most tokens of an answer.", hidden=False, min=1)
    ] = None
    min_new_tokens: Annotated[
        int | None, _generation("min_new_tokens", "Fewest tokens of an answer.", min=0)
    ] = None
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help="An answer ends where this text begins, and is cut there; may be repeated.",
            rich_help_panel=GENERATION,
            hidden=True,
        ),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        _generation(
            "repetition_penalty", "A value above 1 makes tokens less likely that were in prompt or answer."
        ),
    ] = None
    no_repeat_ngram_size: Annotated[
        int | None,
        _generation(
            "no_repeat_ngram_size", "No sequence of N tokens occurs twice in an answer; 0 allows all.", min=0
        ),
    ] = None
    num_return_sequences: Annotated[
        int | None,
        _generation(
            "num_return_sequences",
            "How many beams or samples an answer lists; it has alternatives above 1.",
            min=1,
            max=64,
        ),
    ] = None
    length_penalty: Annotated[
        float | None,
        _generation("length_penalty", "A value above 0 favours longer beams and choices."),
    ] = None
    num_beams: Annotated[
        int | None,
        _generation("num_beams", "Beams of a beam search; 1 is none.", hidden=False, min=1, max=64),
    ] = None
    early_stopping: Annotated[
        Literal["false", "true", "never"] | None,
        _generation("early_stopping", "Whether a beam search ends at the first num_beams finished beams."),
    ] = None
    do_sample: Annotated[
        bool | None,
        _generation("do_sample", "Tokens are drawn at random.", "--do-sample/--no-sample", hidden=False),
    ] = None
    temperature: Annotated[
        float | None,
        _generation(
            "temperature", "A value above 1 draws more widely, one below 1 more narrowly; 0 is greedy."
        ),
    ] = None
    top_k: Annotated[
        int | None, _generation("top_k", "Only the N likeliest tokens are drawn; 0 keeps all.", min=0)
    ] = None
    top_p: Annotated[
        float | None,
        _generation("top_p", "Only the likeliest tokens are drawn that have this probability together."),
    ] = None
    min_p: Annotated[
        float | None,
        _generation("min_p", "Only tokens are drawn that have this share of the likeliest one's."),
    ] = None
    seed: Annotated[
        int | None, _generation("seed", "Equal seeds draw the same answer to the same question.", min=0)
    ] = None

    def changes(self) -> dict[str, Any]:
        """What was given, as fields of GenerationParameters."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        changes = {name: value for name, value in given.items() if value is not None}
        if self.early_stopping is not None:
            words: dict[str, bool | str] = {"false": False, "true": True, "never": "never"}
            changes["early_stopping"] = words[self.early_stopping]
        return greedy_at_zero(changes)


def read_on_flag(given: Sequence[str], generation: GenerationOptions) -> dict[Flagged, dict[str, Any]]:
    """Flag → changed parameters. Raises ValidationError for what is no parameter, typer's for the form."""
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
    """What is asked of every row that brings no question of its own."""

    question: Annotated[
        list[str] | None,
        typer.Option(
            callback=replaces_what_is_asked,
            help="A question about every image; {column} is filled in; may be repeated.",
            rich_help_panel=QUESTIONS,
        ),
    ] = None
    questions: Annotated[
        Any,
        typer.Option(
            parser=read_questions,
            metavar="PATH",
            callback=replaces_what_is_asked,
            help="A file of questions: .jsonl, .json or .csv, with id, text, choices and parameters.",
            rich_help_panel=QUESTIONS,
        ),
    ] = None
    choice: Annotated[
        list[str] | None,
        typer.Option(
            callback=several,
            help="An answer that is allowed to each --question; give at least two.",
            rich_help_panel=QUESTIONS,
        ),
    ] = None
    detail: Annotated[
        Any,
        typer.Option(
            parser=read_detail,
            metavar="low|high|N",
            help="How closely to look: once, at every tile of an image, or at N tiles.",
            rich_help_panel=QUESTIONS,
            hidden=True,
        ),
    ] = "high"


@dataclass(frozen=True)
class SourceChoices:
    """How a source is read."""

    recursive: Annotated[
        bool,
        typer.Option(
            "--recursive/--no-recursive",
            help="Images in the folders below are read, too.",
            rich_help_panel=SOURCE,
        ),
    ] = False
    sniff: Annotated[
        bool,
        typer.Option(
            "--sniff/--no-sniff",
            help="Files of other suffixes are read, too, if their first bytes are an image's.",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = False
    shard_ids: Annotated[
        bool,
        typer.Option(
            "--shard-ids/--no-shard-ids",
            help="Ids of samples are SHARD/KEY, for shards that have the same keys.",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = False
    delimiter: Annotated[
        str | None,
        typer.Option(
            metavar="CHARACTER",
            help="What stands between the cells of CSV and TSV; tab is one, too.",
            show_default="by the header",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = None
    quoting: Annotated[
        Quoting | None,
        typer.Option(
            help="Whether cells of CSV and TSV may stand in quotes.",
            show_default="quotes in CSV, none in TSV",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = None
    encoding: Annotated[
        str | None,
        typer.Option(
            help="The encoding of a text source, such as cp1252 or shift_jis.",
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
            help=f"What the source is: {', '.join(get_args(Format))}.",
            show_default="by its look",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = None
    image_column: Annotated[
        str | None, typer.Option(help="The column with the image.", rich_help_panel=SOURCE, hidden=True)
    ] = None
    question_column: Annotated[
        str | None, typer.Option(help="The column with the question.", rich_help_panel=SOURCE, hidden=True)
    ] = None
    id_column: Annotated[
        str | None, typer.Option(help="The column with the id.", rich_help_panel=SOURCE, hidden=True)
    ] = None
    image_root: Annotated[
        str | None,
        typer.Option(
            help="The folder or URL that relative image names begin at.",
            show_default="the source's folder",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = None
    split: Annotated[
        str | None,
        typer.Option(help="The split of a dataset that has several.", rich_help_panel=SOURCE, hidden=True),
    ] = None
    parameters: Annotated[
        str | None,
        typer.Option(
            metavar="none|all|NAME,…",
            help="Columns that decide how their rows are answered, such as seed or stop.",
            show_default="those of the parameters' names, where the values fit",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = None
    text_only: Annotated[
        bool,
        typer.Option(
            "--text-only/--no-text-only",
            help="Rows without an image are asked without one.",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = False
    bad_rows: Annotated[
        BadRowPolicy,
        typer.Option(
            help="Rows that cannot be asked refuse the run, all listed at once, or are failures (skip).",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = "refuse"
    own_questions: Annotated[
        bool,
        typer.Option(
            "--own-questions/--only-run-questions",
            help="Whether rows ask the questions they bring, or the run's alone.",
            rich_help_panel=SOURCE,
            hidden=True,
        ),
    ] = True

    def options(self) -> SourceOptions:
        """Raises SourceError."""
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
"""Options whose fields of SinkOptions have other names."""


@dataclass(frozen=True)
class OutputChoices:
    """Where answers go."""

    sink: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[:PATH]",
            help=f"What is written: {', '.join(KINDS)}; may be repeated.",
            show_default="jsonl",
            rich_help_panel=SINKS,
        ),
    ] = None
    sidecars: Annotated[
        SidecarPolicy,
        typer.Option(
            help="What becomes of a sidecar that the run did not write.", rich_help_panel=SINKS, hidden=True
        ),
    ] = "skip"
    sidecar_name: Annotated[
        SidecarName,
        typer.Option(
            help="Name of a sidecar of a.jpg: a.txt (stem) or a.jpg.txt (full).",
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
            help="The id of the question whose answer is the caption.",
            show_default="all, joined",
            rich_help_panel=SINKS,
            hidden=True,
        ),
    ] = None
    caption_extension: Annotated[
        str, typer.Option(help="The extension of sidecars.", rich_help_panel=SINKS, hidden=True)
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
            help="csv and tsv: a line for each question instead of a column.",
            rich_help_panel=SINKS,
            hidden=True,
        ),
    ] = False
    raw_cells: Annotated[
        bool,
        typer.Option(
            "--raw-cells/--no-raw-cells",
            help="csv and tsv, for programs: no apostrophe before cells like formulas.",
            rich_help_panel=SINKS,
            hidden=True,
        ),
    ] = False
    text_column: Annotated[
        str, typer.Option(help="hf: the column of the caption.", rich_help_panel=SINKS, hidden=True)
    ] = "text"
    vqa_columns: Annotated[
        bool,
        typer.Option(
            "--vqa-columns/--no-vqa-columns",
            help="hf: the columns are question and answer.",
            rich_help_panel=SINKS,
            hidden=True,
        ),
    ] = False
    samples_per_shard: Annotated[
        int,
        typer.Option(min=1, help="webdataset: samples in a shard.", rich_help_panel=SINKS, hidden=True),
    ] = 1000
    image_prefix: Annotated[
        str,
        typer.Option(
            help="label-studio: text before an image's name, such as /data/local-files/?d=",
            rich_help_panel=SINKS,
            hidden=True,
        ),
    ] = ""

    def options(self) -> SinkOptions:
        """Raises SinkError."""
        every = {field.name for field in fields(OutputChoices)}
        return self.changed(SinkOptions(), every)

    def changed(self, options: SinkOptions, given: Collection[str]) -> SinkOptions:
        """The options with those changed that are `given` by their names here. Raises SinkError."""
        changes = {
            _SINK_OPTIONS.get(name, name): getattr(self, name)
            for name in given
            if name not in ("sink", "overwrite")
        }
        return replace(options, **changes)


@dataclass(frozen=True)
class SinkChoices(OutputChoices):
    """Where answers go, which are there already, and how images travel."""

    skip_answered: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Images that have an answer in FILE (JSONL, CSV, …) are not asked about; may be repeated.",
            rich_help_panel=SINKS,
            hidden=True,
        ),
    ] = None
    ship: Annotated[
        bool,
        typer.Option(
            "--ship/--no-ship",
            help="Images travel through the store, for workers that do not see the files.",
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
    """The workers that a command without a server starts for itself."""

    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Workers to start; those on the CPU share its cores.",
            show_default="one for each --device",
            rich_help_panel=LOCAL,
        ),
    ] = None
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="The OpenVINO device of a worker: CPU, GPU, GPU.1, …; may be repeated.",
            show_default="CPU",
            rich_help_panel=LOCAL,
            hidden=True,
        ),
    ] = None
