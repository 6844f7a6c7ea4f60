"""The worker's settings from the environment, read once; knows no other source and no default but its own."""

import difflib
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contract.redis_url import complete_url

PREFIX: Final = "CAPTIONMILL_"
EXACT: Final = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    # Else what goes into compressed matrices is rounded to 8 bits.
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}


class SettingsError(ValueError):
    """The environment does not make a worker; the message is one sentence for the operator."""


class Settings(BaseSettings):
    """One worker process. Every field is an environment variable, CAPTIONMILL_ before its name."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=False)

    redis_password_file: Path | None = Field(
        default=None, description="its first line is the password of the user in redis_url"
    )
    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        validate_default=True,
        description="broker and result store; may hold a password",
    )
    model_folder: Path = Field(description="folder written by model_prep, or by an optimum-intel export")
    device: str = Field(default="CPU", description="CPU, GPU, GPU.n, NPU or AUTO")
    precision: Literal["default", "exact"] = Field(
        default="default", description="exact computes and caches in f32, as transformers on a CPU does"
    )
    inference_precision: Literal["f32", "bf16", "f16"] | None = Field(
        default=None, description="what is computed in; None leaves it to folder and OpenVINO"
    )
    kv_cache_precision: Literal["f32", "bf16", "f16", "u8"] | None = Field(
        default=None, description="what keys and values are kept in; None as above"
    )
    dynamic_quantization_group_size: int | None = Field(
        default=None, ge=0, description="activations with one 8-bit scale; 0 is none, None as above"
    )
    streams: int | None = Field(default=None, ge=1, description="None leaves it to OpenVINO")
    cache_dir: Path | None = Field(
        default=None, description="keeps compiled models, so that a worker starts sooner"
    )
    inference_threads: int | None = Field(default=None, ge=1, description="None leaves it to OpenVINO")
    openvino_properties: dict[str, str] = Field(
        default_factory=dict, description="further OpenVINO properties"
    )
    attention: Literal["stateful", "paged"] = Field(
        default="stateful", description="how the language model keeps keys and values"
    )
    kv_cache_bytes: int | None = Field(
        default=None, ge=1, description="for keys and values; None takes half of the memory that is free"
    )
    max_rows: int = Field(
        default=16, ge=1, description="most beams, samples and answers at once; interactive_slots come on top"
    )
    max_step_tokens: int | None = Field(
        default=None, ge=1, description="most positions in one step; None takes the model's context"
    )
    image_cache_bytes: int = Field(
        default=512 * 2**20, ge=0, description="for the features of images seen lately; 0 keeps none"
    )
    image_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default_factory=lambda: (Path.cwd(),),
        min_length=1,
        description="folders images may be read from, separated like PATH",
    )
    url_schemes: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("http", "https"),
        description="of URLs that images are fetched from, separated by commas; empty fetches none",
    )
    url_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="the only hosts of http and https URLs, *.name for all below it; empty is any public one",
    )
    url_private_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="ranges of addresses, as CIDR, that URLs may lead to though not public"
    )
    url_timeout_s: float = Field(
        default=30.0, gt=0, description="for one download, its redirects included, however slowly it comes"
    )
    interactive_slots: int = Field(
        default=2, ge=0, description="jobs somebody waits for that are taken beside bulk jobs; 0 takes none"
    )
    drain_s: float = Field(
        default=60.0, ge=0, description="what a worker that ends may take to finish what it has begun"
    )
    image_max_bytes: int = Field(default=50_000_000, ge=1)
    image_max_px: int = Field(
        default=64_000_000,
        ge=1,
        le=89_000_000,
        description="height x width; above the bound Pillow itself refuses",
    )
    image_max_side_px: int = Field(default=30_000, ge=1)
    image_max_aspect: float = Field(default=100.0, ge=1.0, description="longer side / shorter side")
    http_port: int | None = Field(
        default=None, ge=0, le=65535, description="for /livez, /readyz and /metrics; None opens none"
    )
    http_host: str = Field(default="127.0.0.1", description="address that the port is open on")
    health_file: Path | None = Field(default=None, description="written every few seconds; None writes none")
    engine_stuck_s: float = Field(
        default=300.0,
        gt=0,
        description="longer than any step takes; an engine still for longer ends the worker",
    )
    memory_limit_bytes: int | None = Field(
        default=None, ge=1, description="resident; above it the worker drains and ends; None is no limit"
    )
    require_durable_broker: bool = Field(
        default=False, description="refuse a server that keeps no append-only file"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="of the worker's log")

    image_draft_px: int = Field(
        default=4_000_000,
        ge=0,
        description="of larger JPEGs 1/2, 1/4 or 1/8 of each side is decoded if so much is left; 0 is all",
    )
    image_isolation: Literal["suspect", "all", "none"] = Field(
        default="suspect", description="which jobs' images are decoded outside the worker's process"
    )
    image_decode_bytes: int = Field(
        default=1_500_000_000, ge=50_000_000, description="memory for an image that is decoded outside"
    )
    image_decode_cpu_s: int = Field(default=20, ge=1, description="of a processor, for such an image")
    image_decode_timeout_s: float = Field(default=60.0, gt=0, description="for such an image")

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
    def _a_token_a_row(self) -> Self:
        if self.max_step_tokens is not None and self.max_step_tokens < self.most_rows:
            raise ValueError(
                "max_step_tokens is below max_rows and interactive_slots together, and a step appends a "
                "token to every row"
            )
        return self

    @model_validator(mode="after")
    def _exact_is_f32(self) -> Self:
        wishes = (self.inference_precision, self.kv_cache_precision, self.dynamic_quantization_group_size)
        if self.precision == "exact" and any(wish is not None for wish in wishes):
            raise ValueError("precision=exact leaves no other precision to choose")
        return self

    @model_validator(mode="after")
    def _one_wish_each(self) -> Self:
        twice = self.openvino_properties.keys() & self._derived_properties().keys()
        if twice:
            raise ValueError(
                f"openvino_properties sets {', '.join(sorted(twice))}, which another setting sets"
            )
        return self

    @property
    def most_rows(self) -> int:
        """Those that only jobs somebody waits for take included."""
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


def load_settings() -> Settings:
    """Read the environment.

    Raises SettingsError for an unknown CAPTIONMILL_ variable, a missing one or a value that does not fit.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for variable in sorted(name for name in os.environ if name.upper().startswith(PREFIX)):
        if variable.upper() not in known:
            nearest = difflib.get_close_matches(variable.upper(), sorted(known), n=1, cutoff=0)[0]
            raise SettingsError(f"{variable} is not a setting of the worker; the nearest one is {nearest}.")
    try:
        return Settings.model_validate({})
    except ValidationError as invalid:
        # The rejected value stays out of the sentence: it may be a URL with a password.
        complaints = [
            f"{PREFIX}{str(error['loc'][0]).upper() if error['loc'] else '*'}: {error['msg']}"
            for error in invalid.errors(include_input=False, include_url=False)
        ]
        raise SettingsError("; ".join(complaints) + ".") from None
