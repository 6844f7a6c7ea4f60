"""Converts a kept model in a child process and shows its progress; never loads torch."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

from rich.console import Console

from captionmill.kept_models import KeptModel, ModelError, Record
from captionmill.processes import last_lines, start, stop
from model_prep.command import require_prep
from model_prep.progress import Shown, shown_progress
from model_prep.refusal import ConversionError

OnEvent = Callable[[dict[str, Any]], None]
CHECK: Final = ("--stop-after", "check")


def check(kept: KeptModel, record: Record) -> None:
    """Check whether the model can be converted; hold its lock. Raises ModelError."""
    with _console().status(f"Checking {record.recipe.source}"):
        _converse(kept, record, CHECK, lambda _event: None)


def convert(kept: KeptModel, record: Record, on_event: OnEvent | None = None) -> None:
    """Convert the model, or go on with its conversion; hold its lock. Raises ModelError.

    Events of the conversion go to `on_event`, or to the terminal if it is None.
    """
    console = _console()
    title = f"{record.recipe.source} is converted, and kept as {kept.name}."
    try:
        with ExitStack() as stack:
            if on_event is None:
                shown = stack.enter_context(shown_progress(leave=False))
                on_event = _OnTerminal(shown, title)
            _converse(kept, record, (), on_event)
    except KeyboardInterrupt:
        console.print("What is converted so far is kept; the same command goes on from there.")
        raise
    console.print(made(kept))
    for sentence in decided(kept):
        console.print(sentence)


def made(kept: KeptModel) -> str:
    """A line about a ready model: name, size, formats and loss."""
    manifest = kept.manifest()
    assert manifest is not None
    return f"Kept as {kept.name}: {manifest.size_bytes / 1e6:.1f} MB, {formats(kept)}; {loss(kept)}."


def decided(kept: KeptModel) -> list[str]:
    """What the preset auto decided, a sentence for each part."""
    found = kept.verification()
    return [] if found is None else [choice.why for choice in found.choices.values()]


def formats(kept: KeptModel) -> str:
    """The weight formats of language and vision model, one word if they are equal."""
    manifest = kept.manifest()
    if manifest is None:
        return ""
    if manifest.weight_format == manifest.vision_format:
        return manifest.weight_format
    return f"{manifest.weight_format}, vision {manifest.vision_format}"


def loss(kept: KeptModel) -> str:
    """The measured difference from the checkpoint, in a few words."""
    found = kept.verification()
    if found is None or found.parity is None:
        return "not verified"
    if not found.losses:
        return "computes what the checkpoint does"
    worst = min(found.losses.values(), key=lambda one: one.token_agreement)
    return f"{worst.token_agreement:.1%} of tokens as in the checkpoint"


class _OnTerminal:
    """Shows the events of a conversion, and `title` once its first stage, the check, has passed."""

    def __init__(self, shown: Shown, title: str) -> None:
        self._shown = shown
        self._title = title
        self._stages = 0

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "stage":
            self._stages += 1
            if self._stages == 2:
                self._shown.say(self._title)
            self._shown.stage(event["stage"])
        elif event["event"] == "download":
            self._shown.downloaded(event["done_bytes"], event["total_bytes"])
        elif event["event"] == "compared":
            self._shown.compared(event["done"], event["total"])


def _converse(kept: KeptModel, record: Record, options: tuple[str, ...], on_event: OnEvent) -> None:
    """Run the conversion to its end, with its output in the model's log. Raises ModelError."""
    try:
        require_prep()
        kept.write(record)
        kept.log.unlink(missing_ok=True)
        _run(kept, record, options, on_event)
    except ConversionError as refusal:
        kept.forget_if_empty()
        raise ModelError(str(refusal)) from None


def _run(kept: KeptModel, record: Record, options: tuple[str, ...], on_event: OnEvent) -> None:
    # -P: do not import a model_prep.py from the current folder.
    command = [
        *(sys.executable, "-P", "-m", "model_prep", "convert", record.recipe.source),
        *("--out", str(kept.model_folder), "--overwrite", "--json", *record.options, *options),
    ]
    refusal: str | None = None
    with start(command, kept.log, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "refused":
                    refusal = event["sentence"]
                else:
                    on_event(event)
            code = process.wait()
        except BaseException:
            stop(process)
            raise
    if code == 0:
        return
    if refusal is not None:
        raise ConversionError(refusal)
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    raise ModelError(
        f"The conversion of {record.recipe.source} {how}; the same command goes on from the parts that are "
        f"finished. The end of its log, {kept.log}:\n{last_lines(kept.log)}"
    )


def _console() -> Console:
    """A console on stderr, as stdout is for answers."""
    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
