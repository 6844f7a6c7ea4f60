"""The settings chosen on the page, as a job's and as the command that applies them to a folder."""

import shlex
from dataclasses import dataclass
from urllib.parse import urlsplit

from contract.job import Detail, GenerationParameters
from producer.settings import DEFAULT_SERVER


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

    def command(self, question: str, redis_url: str) -> str:
        """What asks `question` of every image in a folder, over lines, to be pasted into a shell.

        It names the server unless that is the default, and never one whose URL holds a password.
        """
        # What a template would fill in is meant as it is written.
        template = question.replace("{", "{{").replace("}", "}}")
        options = [("--question", template), ("--out", "ANSWERS")]
        changed = self.parameters().model_dump(exclude_defaults=True)
        options += [(f"--{name.replace('_', '-')}", str(value)) for name, value in changed.items()]
        if self.detail != "high":
            options.append(("--detail", str(self.detail)))
        if redis_url != DEFAULT_SERVER and urlsplit(redis_url).password is None:
            options.append(("--redis", redis_url))
        words = [f"{name} {shlex.quote(value)}" for name, value in options if name != "--do-sample"]
        if "do_sample" in changed:
            words.append("--do-sample")
        return " \\\n  ".join(["captionmill run FOLDER", *words])
