"""Turns the page's settings into a job's parameters, and into a command for a folder; knows no page."""

import shlex
from dataclasses import dataclass
from urllib.parse import urlsplit

from contract.job import Detail, GenerationParameters


@dataclass(frozen=True)
class AnsweredBy:
    """The server or local model that answers on the page, for the command."""

    redis_url: str
    local_model: str | None = None
    """The value of --model, if the page has its own server and workers."""


@dataclass(frozen=True)
class Chosen:
    """Settings of the page. Temperature 0 takes the likeliest token; above 0 it samples, without beams."""

    beams: int = 1
    max_new_tokens: int = 128
    temperature: float = 0.0
    detail: Detail = "high"

    def parameters(self) -> GenerationParameters:
        """Raises pydantic's ValidationError for settings that contradict each other."""
        sampling = {"do_sample": True, "temperature": self.temperature} if self.temperature else {}
        return GenerationParameters.model_validate(
            {"num_beams": self.beams, "max_new_tokens": self.max_new_tokens, **sampling}
        )

    def command(self, question: str, answered_by: AnsweredBy) -> str:
        """A shell command that asks `question` about every image in a folder, over several lines.

        It names the local model, or the server if its URL has no password.
        """
        # Braces in the question are meant literally.
        template = question.replace("{", "{{").replace("}", "}}")
        options = [("--question", template), ("--out", "ANSWERS")]
        changed = self.parameters().model_dump(exclude_defaults=True)
        options += [(f"--{name.replace('_', '-')}", str(value)) for name, value in changed.items()]
        if self.detail != "high":
            options.append(("--detail", str(self.detail)))
        if answered_by.local_model is not None:
            options.append(("--model", answered_by.local_model))
        elif urlsplit(answered_by.redis_url).password is None:
            options.append(("--redis", answered_by.redis_url))
        words = [f"{name} {shlex.quote(value)}" for name, value in options if name != "--do-sample"]
        if "do_sample" in changed:
            words.append("--do-sample")
        return " \\\n  ".join(["captionmill run FOLDER", *words])
