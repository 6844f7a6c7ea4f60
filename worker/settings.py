"""Reads the worker's settings from the environment, once; knows no other source."""

import difflib
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    Field,
    JsonValue,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contract.redis_url import complete_url
from worker.errors import StartupError

PREFIX: Final = "CAPTIONMILL_"
EXACT: Final = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    # Otherwise inputs of compressed matrices are rounded to 8 bits.
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}


class SettingsError(StartupError):
    """A setting is missing, unknown or of a wrong value."""


def unset(what_then: str) -> dict[str, JsonValue]:
    """`json_schema_extra` of a field: what a worker does without this setting, for the page of settings."""
    return {"unset": what_then}


class Settings(BaseSettings):
    """Settings of one worker process. Each field is an environment variable, CAPTIONMILL_ before its name."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=False)

    redis_password_file: Path | None = Field(
        default=None,
        description="File whose first line is the password of the user in the server's URL.",
        json_schema_extra=unset("none"),
    )
    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        validate_default=True,
        description=(
            "Server that is broker and result store: redis://USER@HOST:PORT/DATABASE, or the same with "
            "rediss:// for TLS. A password in it is shown in the list of processes, one in a file is not."
        ),
    )
    require_durable_broker: bool = Field(
        default=False,
        description="Refuse a server without an append-only file, which loses jobs in a crash.",
    )

    model_folder: Path = Field(description="Model folder, written by `captionmill convert` or optimum-intel.")
    device: str = Field(
        default="CPU",
        description="OpenVINO device: CPU, GPU, GPU.n, NPU or AUTO; `captionmill doctor` lists them.",
    )
    precision: Literal["default", "exact"] = Field(
        default="default",
        description=(
            "`exact` computes everything in f32, as transformers on a CPU does, and is slower. "
            "`default` leaves the choice to the three settings below, the model folder and OpenVINO."
        ),
    )
    inference_precision: Literal["f32", "bf16", "f16"] | None = Field(
        default=None,
        description="Number format that the device computes in. The model id of answers names it.",
        json_schema_extra=unset("the model folder's, else OpenVINO's choice"),
    )
    kv_cache_precision: Literal["f32", "bf16", "f16", "u8"] | None = Field(
        default=None,
        description="Number format of keys and values. The model id of answers names it.",
        json_schema_extra=unset("the model folder's, else OpenVINO's choice"),
    )
    dynamic_quantization_group_size: int | None = Field(
        default=None,
        ge=0,
        description=(
            "Number of activations that share one scale when rounded to 8 bits; 0 rounds none. "
            "The model id of answers names it."
        ),
        json_schema_extra=unset("the model folder's, else OpenVINO's choice"),
    )
    cache_dir: Path | None = Field(
        default=None,
        description="Folder for compiled models, which make later starts faster.",
        json_schema_extra=unset("none are kept"),
    )

    attention: Literal["stateful", "paged"] = Field(
        default="stateful",
        description=(
            "How the language model keeps keys and values: `stateful` in one piece for each batch, or "
            "`paged` in blocks that questions about one image share."
        ),
    )
    kv_cache_bytes: int | None = Field(
        default=None,
        ge=1,
        description="Largest memory for keys and values.",
        json_schema_extra=unset("half of the free memory at the start"),
    )
    max_rows: int = Field(
        default=16,
        ge=1,
        description=(
            "Largest number of beams, samples and answers generated at once. Interactive slots come on top."
        ),
    )
    max_step_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Largest number of tokens, of prompts and answers together, in one step.",
        json_schema_extra=unset("the model's context"),
    )
    image_cache_bytes: int = Field(
        default=512 * 2**20,
        ge=0,
        description="Memory for features of recent images, which are not computed again; 0 keeps none.",
    )
    interactive_slots: int = Field(
        default=2,
        ge=0,
        description=(
            "Number of `captionmill ask` and `captionmill chat` questions taken beside the bulk jobs; "
            "0 takes none."
        ),
    )
    inference_threads: int | None = Field(
        default=None,
        ge=1,
        description="Number of CPU threads that OpenVINO uses.",
        json_schema_extra=unset("OpenVINO's choice"),
    )
    streams: int | None = Field(
        default=None,
        ge=1,
        description="Number of OpenVINO streams, which run inferences side by side.",
        json_schema_extra=unset("OpenVINO's choice"),
    )
    openvino_properties: dict[str, str] = Field(
        default_factory=dict,
        description="Further OpenVINO properties, as a JSON object of names and strings.",
        json_schema_extra=unset("none"),
    )

    image_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default_factory=lambda: (Path.cwd(),),
        min_length=1,
        description="Folder that images may be read from, including its subfolders; other files are refused.",
        json_schema_extra=unset("the folder where the worker is started"),
    )
    image_max_bytes: int = Field(
        default=50_000_000, ge=1, description="Largest size of an image file in bytes."
    )
    image_max_px: int = Field(
        default=64_000_000,
        ge=1,
        le=89_000_000,
        description="Largest number of pixels of an image, height x width. Pillow's own limit is 89,000,000.",
    )
    image_max_side_px: int = Field(default=30_000, ge=1, description="Longest side of an image in pixels.")
    image_max_aspect: float = Field(
        default=100.0, ge=1.0, description="Largest ratio of an image's longer side to its shorter one."
    )
    image_draft_px: int = Field(
        default=4_000_000,
        ge=0,
        description=(
            "Large JPEGs are decoded at 1/2, 1/4 or 1/8 of each side if at least so many pixels are left; "
            "0 always decodes all pixels."
        ),
    )

    url_schemes: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("http", "https"),
        description=(
            "Scheme that an image's URL may have, such as s3; schemes other than http and https need fsspec "
            "and the store's own package, such as s3fs. An empty text allows none."
        ),
    )
    url_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Only host that images are fetched from; *.example.org means all hosts below it.",
        json_schema_extra=unset("any public host"),
    )
    url_private_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Private network that images may be fetched from, such as 10.1.0.0/16.",
        json_schema_extra=unset("none"),
    )
    url_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="Longest time of one download with its redirects.",
    )
    url_user_agent: str = Field(
        default="captionmill",
        pattern=r"^[\x20-\x7e]+$",
        description="User-Agent sent to image servers; some require a contact in it.",
    )
    respect_noai: bool = Field(
        default=False,
        description=("Images sent with X-Robots-Tag: noai or noimageai end in the failure url_opted_out."),
    )

    image_isolation: Literal["suspect", "all", "none"] = Field(
        default="suspect",
        description=(
            "Jobs whose images are decoded in separate processes; `suspect` jobs were under way when a "
            "worker died. docs/untrusted-input.md gives the reasons."
        ),
    )
    image_decode_bytes: int = Field(
        default=1_500_000_000,
        ge=50_000_000,
        description="Largest memory of such a process, beyond what it starts with.",
    )
    image_decode_cpu_s: int = Field(
        default=20, ge=1, description="Longest processor time of such a process for one image."
    )
    image_decode_timeout_s: float = Field(
        default=60.0, gt=0, description="Longest time of such a process for one image."
    )

    drain_s: float = Field(
        default=60.0,
        ge=0,
        description=(
            "Time in which a stopping worker may finish what it has begun; the rest returns to the queue."
        ),
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Format of the log: lines of text, or a JSON object a line."
    )
    http_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port for /livez, /readyz and /metrics.",
        json_schema_extra=unset("none is opened"),
    )
    http_host: str = Field(
        default="127.0.0.1",
        description="Address of this port, which has no password: never use a public one.",
    )
    health_file: Path | None = Field(
        default=None,
        description="File with the worker's health, written every 2 s, for checks without HTTP.",
        json_schema_extra=unset("none is written"),
    )
    engine_stuck_s: float = Field(
        default=300.0,
        gt=0,
        description="Time without movement of the engine after which the worker ends; longer than any step.",
    )
    memory_limit_bytes: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Resident memory above which the worker drains and ends. Set it below the container's limit, "
            "at which the kernel kills."
        ),
        json_schema_extra=unset("no limit"),
    )

    @field_validator("redis_url")
    @classmethod
    def _complete(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        return SecretStr(complete_url(url.get_secret_value(), info.data.get("redis_password_file")))

    @field_validator("image_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: object) -> object:
        return tuple(value.split(os.pathsep)) if isinstance(value, str) else value

    @field_validator("url_schemes", "url_hosts", "url_private_networks", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(part.strip().lower() for part in value.split(",") if part.strip())

    @field_validator("url_private_networks")
    @classmethod
    def _networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ipaddress.ip_network(network)
        return networks

    @field_validator("image_roots")
    @classmethod
    def _folders(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in roots:
            if not root.is_dir():
                raise ValueError(f"{root} is not a folder")
        return tuple(root.resolve() for root in roots)

    @model_validator(mode="after")
    def _step_holds_every_row(self) -> Self:
        if self.max_step_tokens is not None and self.max_step_tokens < self.most_rows:
            raise ValueError(
                f"{PREFIX}MAX_STEP_TOKENS is below {PREFIX}MAX_ROWS and {PREFIX}INTERACTIVE_SLOTS together; "
                f"raise it to {self.most_rows}, as a step appends a token to every row"
            )
        return self

    @model_validator(mode="after")
    def _exact_is_f32(self) -> Self:
        names = ("inference_precision", "kv_cache_precision", "dynamic_quantization_group_size")
        other = [variable(name) for name in names if getattr(self, name) is not None]
        if self.precision == "exact" and other:
            raise ValueError(
                f"{PREFIX}PRECISION is exact, which leaves no other precision to choose: take "
                f"{', '.join(other)} away"
            )
        return self

    @model_validator(mode="after")
    def _each_property_set_once(self) -> Self:
        twice = self.openvino_properties.keys() & self._derived_properties().keys()
        if twice:
            raise ValueError(
                f"{PREFIX}OPENVINO_PROPERTIES sets {', '.join(sorted(twice))}, which another setting sets; "
                "keep one of the two"
            )
        return self

    @property
    def most_rows(self) -> int:
        """Number of rows, those of interactive slots included."""
        return self.max_rows + self.interactive_slots

    def _derived_properties(self) -> dict[str, str]:
        given = {
            "INFERENCE_PRECISION_HINT": self.inference_precision,
            "KV_CACHE_PRECISION": self.kv_cache_precision,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": self.dynamic_quantization_group_size,
            "INFERENCE_NUM_THREADS": self.inference_threads,
            "NUM_STREAMS": self.streams,
            "CACHE_DIR": self.cache_dir,
        }
        properties = dict(EXACT) if self.precision == "exact" else {}
        return properties | {name: str(value) for name, value in given.items() if value is not None}

    def properties(self) -> Mapping[str, str]:
        """OpenVINO properties that the settings ask for."""
        return {**self._derived_properties(), **self.openvino_properties}


GROUPS: Final[Mapping[str, str]] = {
    "Server": "redis_password_file",
    "Model and device": "model_folder",
    "Speed and memory": "attention",
    "Images": "image_roots",
    "Images from URLs": "url_schemes",
    "Untrusted images": "image_isolation",
    "Operation": "drain_s",
}
"""Heading of each group of fields → the group's first field; the others follow it in the class."""


def variable(name: str) -> str:
    """The environment variable of a field."""
    return PREFIX + name.upper()


def unknown_variables() -> dict[str, str]:
    """Environment variables that begin like settings and are none → the nearest setting's variable."""
    known = sorted(variable(name) for name in Settings.model_fields)
    return {
        found: difflib.get_close_matches(found.upper(), known, n=1, cutoff=0)[0]
        for found in sorted(os.environ)
        if found.upper().startswith(PREFIX) and found.upper() not in known
    }


def look_at_settings() -> tuple[Settings | None, list[str]]:
    """The settings that the environment gives, None if they are not valid, and every complaint about them.

    The environment need not name a model folder; the current folder then stands for it.
    """
    wrong = [
        f"{unknown} is not a setting; the nearest one is {near}"
        for unknown, near in unknown_variables().items()
    ]
    stand_in = {} if "model_folder" in _set_here() else {"model_folder": Path()}
    try:
        return Settings.model_validate(stand_in), wrong
    except ValidationError as invalid:
        return None, [*wrong, *_complaints(invalid)]


def _set_here() -> set[str]:
    """Names of the settings that the environment gives."""
    given = {found.upper() for found in os.environ}
    return {name for name in Settings.model_fields if variable(name) in given}


def is_set(name: str) -> bool:
    """Whether the environment gives a setting, with any value."""
    return name in _set_here()


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises SettingsError for an unknown CAPTIONMILL_ variable, a missing setting or a value that does not fit.
    """
    for unknown, nearest in unknown_variables().items():
        raise SettingsError(f"{unknown} is not a setting of the worker; the nearest one is {nearest}.")
    try:
        return Settings.model_validate({})
    except ValidationError as invalid:
        raise SettingsError("; ".join(_complaints(invalid)) + ".") from None


def _complaints(invalid: ValidationError) -> list[str]:
    """What is wrong with each setting, without the rejected values: one may be a URL with a password."""
    found = []
    for error in invalid.errors(include_input=False, include_url=False):
        if error["type"] == "missing":
            found.append(
                f"{variable('model_folder')} names no model: set it to a model folder, or start the worker "
                "by `captionmill worker --model FOLDER`"
            )
            continue
        place = f"{variable(str(error['loc'][0]))}: " if error["loc"] else ""
        found.append(f"{place}{error['msg'].removeprefix('Value error, ')}")
    return found
