"""Groups of command-line options that several commands share; knows no command."""

from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import TypeAdapter, ValidationError

from contract.job import Detail, GenerationParameters
from producer.sinks.kinds import KINDS
from producer.sinks.sink import SidecarPolicy, SinkOptions
from producer.sources import Format, SourceOptions
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
        help="Server to use, as redis://…; else CAPTIONMILL_REDIS_URL.",
        rich_help_panel=RUNNING,
    ),
]
RunFolderPath = Annotated[Path, typer.Argument(help="The run's folder: --out of `run` or `submit`.")]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="Progress and the summary as lines of JSON on stdout.", rich_help_panel=RUNNING
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
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Model folder, checkpoint folder or hub id; with a server, the model id that must answer.",
        rich_help_panel=RUNNING,
    ),
]


class EarlyStopping(StrEnum):
    """contract.job.GenerationParameters.early_stopping, in the form that the command line offers."""

    FALSE = "false"
    TRUE = "true"
    NEVER = "never"


def read_detail(text: str) -> Detail:
    """Raises typer.BadParameter."""
    try:
        detail: Detail = TypeAdapter[Detail](Detail).validate_strings(text)
    except ValidationError:
        raise typer.BadParameter(f"{text!r} is neither low nor high nor a number of tiles.") from None
    return detail


def _default(name: str) -> str:
    return str(getattr(DEFAULTS, name)).lower()


def _generation(name: str, help_text: str, *declarations: str, **more: Any) -> Any:
    return typer.Option(
        *declarations, help=help_text, rich_help_panel=GENERATION, show_default=_default(name), **more
    )


@dataclass(frozen=True)
class GenerationOptions:
    """Fields of GenerationParameters; None is what was not given."""

    max_new_tokens: Annotated[int | None, _generation("max_new_tokens", "Longest answer.", min=1)] = None
    min_new_tokens: Annotated[int | None, _generation("min_new_tokens", "Shortest answer.", min=0)] = None
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help="Ends an answer, which is cut before it; may be repeated.", rich_help_panel=GENERATION
        ),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        _generation("repetition_penalty", "Above 1 avoids tokens that were there, the prompt's too."),
    ] = None
    no_repeat_ngram_size: Annotated[
        int | None,
        _generation(
            "no_repeat_ngram_size", "Says no so many tokens in a row twice; 0 forbids nothing.", min=0
        ),
    ] = None
    num_return_sequences: Annotated[
        int | None,
        _generation(
            "num_return_sequences", "Of beams or samples; above 1 answers have alternatives.", min=1, max=64
        ),
    ] = None
    length_penalty: Annotated[
        float | None,
        _generation("length_penalty", "For scores; above 0 favours longer beams and choices."),
    ] = None
    num_beams: Annotated[int | None, _generation("num_beams", "Beam search.", min=1, max=64)] = None
    early_stopping: Annotated[
        EarlyStopping | None,
        _generation("early_stopping", "Stop at the first num_beams finished ones."),
    ] = None
    do_sample: Annotated[
        bool | None, _generation("do_sample", "Draw tokens at random.", "--do-sample/--no-sample")
    ] = None
    temperature: Annotated[
        float | None, _generation("temperature", "Above 1 flattens, below 1 sharpens.")
    ] = None
    top_k: Annotated[int | None, _generation("top_k", "0 keeps every token.", min=0)] = None
    top_p: Annotated[float | None, _generation("top_p", "Keeps the likeliest tokens up to it.")] = None
    min_p: Annotated[float | None, _generation("min_p", "Keeps tokens so likely beside the best.")] = None
    seed: Annotated[int | None, _generation("seed", "Equal seeds draw equally.", min=0)] = None

    def changes(self) -> dict[str, Any]:
        """What was given, as fields of GenerationParameters."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        changes = {name: value for name, value in given.items() if value is not None}
        if self.early_stopping is not None:
            words: dict[str, bool | str] = {"false": False, "true": True, "never": "never"}
            changes["early_stopping"] = words[self.early_stopping.value]
        return changes


@dataclass(frozen=True)
class QuestionOptions:
    """What is asked of every row that brings no question of its own."""

    question: Annotated[
        list[str] | None,
        typer.Option(
            help="Asked of every image; {column} is filled in; may be repeated.", rich_help_panel=QUESTIONS
        ),
    ] = None
    questions: Annotated[
        Path | None,
        typer.Option(
            help="File of questions, with id, text, choices and parameters.", rich_help_panel=QUESTIONS
        ),
    ] = None
    choice: Annotated[
        list[str] | None,
        typer.Option(
            help="An answer allowed to each --question; may be repeated.", rich_help_panel=QUESTIONS
        ),
    ] = None
    detail: Annotated[
        Any,
        typer.Option(
            parser=read_detail,
            metavar="low|high|N",
            help="One look, every tile, or at most N tiles of an image.",
            rich_help_panel=QUESTIONS,
        ),
    ] = "high"


@dataclass(frozen=True)
class SourceChoices:
    """How a source is read."""

    recursive: Annotated[
        bool, typer.Option("--recursive", help="Also the folders below.", rich_help_panel=SOURCE)
    ] = False
    source_format: Annotated[
        Format | None,
        typer.Option(
            "--format", help="What the source is.", show_default="by its look", rich_help_panel=SOURCE
        ),
    ] = None
    image_column: Annotated[
        str | None, typer.Option(help="Column with the image.", rich_help_panel=SOURCE)
    ] = None
    question_column: Annotated[
        str | None, typer.Option(help="Column with the question.", rich_help_panel=SOURCE)
    ] = None
    id_column: Annotated[str | None, typer.Option(help="Column with the id.", rich_help_panel=SOURCE)] = None
    image_root: Annotated[
        str | None,
        typer.Option(
            help="Folder or URL that image names begin at.",
            show_default="the source's folder",
            rich_help_panel=SOURCE,
        ),
    ] = None
    split: Annotated[str | None, typer.Option(help="Of a dataset.", rich_help_panel=SOURCE)] = None
    own_questions: Annotated[
        bool,
        typer.Option(
            "--own-questions/--only-run-questions",
            help="Whether rows ask what they bring, or the run's questions alone.",
            rich_help_panel=SOURCE,
        ),
    ] = True

    def options(self) -> SourceOptions:
        return SourceOptions(
            recursive=self.recursive,
            format=self.source_format,
            image_column=self.image_column,
            question_column=self.question_column,
            id_column=self.id_column,
            image_root=self.image_root,
            split=self.split,
            own_questions=self.own_questions,
        )


@dataclass(frozen=True)
class SinkChoices:
    """Where answers go, and how images travel."""

    sink: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[:PATH]",
            help=f"One of {', '.join(KINDS)}; may be repeated.",
            show_default="jsonl",
            rich_help_panel=SINKS,
        ),
    ] = None
    sidecars: Annotated[
        SidecarPolicy,
        typer.Option(help="What becomes of a sidecar that the run did not write.", rich_help_panel=SINKS),
    ] = "skip"
    caption_question: Annotated[
        str | None,
        typer.Option(
            help="Id of the question whose answer is the caption.",
            show_default="all, joined",
            rich_help_panel=SINKS,
        ),
    ] = None
    caption_extension: Annotated[str, typer.Option(help="Of sidecars.", rich_help_panel=SINKS)] = ".txt"
    prefix: Annotated[str, typer.Option(help="Before each caption.", rich_help_panel=SINKS)] = ""
    suffix: Annotated[str, typer.Option(help="After each caption.", rich_help_panel=SINKS)] = ""
    separator: Annotated[
        str,
        typer.Option(help="Between the answers of a caption.", rich_help_panel=SINKS, show_default="newline"),
    ] = "\n"
    long_table: Annotated[
        bool, typer.Option("--long-table", help="csv, tsv: a line per question.", rich_help_panel=SINKS)
    ] = False
    text_column: Annotated[str, typer.Option(help="hf: the caption's column.", rich_help_panel=SINKS)] = (
        "text"
    )
    vqa_columns: Annotated[
        bool, typer.Option("--vqa-columns", help="hf: columns question and answer.", rich_help_panel=SINKS)
    ] = False
    samples_per_shard: Annotated[
        int, typer.Option(min=1, help="webdataset: of one shard.", rich_help_panel=SINKS)
    ] = 1000
    image_prefix: Annotated[
        str,
        typer.Option(
            help="label-studio: before an image's name, such as /data/local-files/?d=", rich_help_panel=SINKS
        ),
    ] = ""
    ship: Annotated[
        bool,
        typer.Option(
            "--ship",
            help="Send images through the store, for workers that do not see the files.",
            rich_help_panel=RUNNING,
        ),
    ] = False
    ship_mib: Annotated[
        int, typer.Option(min=1, help="Most MiB of such images in the store.", rich_help_panel=RUNNING)
    ] = BUDGET_BYTES // 2**20

    def options(self) -> SinkOptions:
        """Raises SinkError."""
        return SinkOptions(
            question=self.caption_question,
            separator=self.separator,
            prefix=self.prefix,
            suffix=self.suffix,
            caption_extension=self.caption_extension,
            sidecar_policy=self.sidecars,
            long_table=self.long_table,
            text_column=self.text_column,
            vqa_columns=self.vqa_columns,
            samples_per_shard=self.samples_per_shard,
            image_prefix=self.image_prefix,
        )


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
            help="OpenVINO device of a worker: CPU, GPU, GPU.1, …; may be repeated.",
            show_default="CPU",
            rich_help_panel=LOCAL,
        ),
    ] = None
