"""The settings chosen on the page, as a job's and as the command that applies them to a folder."""

import shlex
from dataclasses import dataclass
from urllib.parse import urlsplit

from contract.job import Detail, GenerationParameters


@dataclass(frozen=True)
class AnsweredBy:
    """Who answers on the page, so that the same can answer a run."""

    redis_url: str
    local_model: str | None = None
    """What --model named, where the page has a server and workers of its own."""


@dataclass(frozen=True)
class Chosen:
    """A temperature of 0 takes the likeliest token; above it tokens are drawn, and beams are not searched."""

    beams: int = 1
    max_new_tokens: int = 128
    temperature: float = 0.0
    detail: Detail = "high"

    def parameters(self) -> GenerationParameters:
        """Raises pydantic's ValidationError for what does not go together."""
        sampling = {"do_sample": True, "temperature": self.temperature} if self.temperature else {}
        return GenerationParameters.model_validate(
            {"num_beams": self.beams, "max_new_tokens": self.max_new_tokens, **sampling}
        )

    def command(self, question: str, answered_by: AnsweredBy) -> str:
        """What asks `question` of every image in a folder, over lines, to be pasted into a shell.

        It names the model of local mode, or the server; never one whose URL holds a password.
        """
        # What a template would fill in is meant as it is written.
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
