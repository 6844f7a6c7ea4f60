"""Converts a kept model in a process of its own, and shows how it goes; torch never comes into this one."""

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
    """Find out whether it can be converted at all. For whoever is alone with it. Raises ModelError."""
    with _console().status(f"Checking {record.recipe.source}"):
        _converse(kept, record, CHECK, lambda _event: None)


def convert(kept: KeptModel, record: Record, on_event: OnEvent | None = None) -> None:
    """Make it, or go on with making it. For whoever is alone with it. Raises ModelError.

    What the conversion tells goes to `on_event`, else to the terminal.
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


def made(kept: KeptModel) -> str:
    """One line about a model that is ready: name, size, formats and what compression changed."""
    manifest = kept.manifest()
    assert manifest is not None
    return f"Kept as {kept.name}: {manifest.size_bytes / 1e6:.1f} MB, {formats(kept)}; {loss(kept)}."


def formats(kept: KeptModel) -> str:
    """Of language and vision."""
    manifest = kept.manifest()
    if manifest is None:
        return ""
    if manifest.weight_format == manifest.vision_format:
        return manifest.weight_format
    return f"{manifest.weight_format}, vision {manifest.vision_format}"


def loss(kept: KeptModel) -> str:
    """What was found to change against the checkpoint, in a few words."""
    found = kept.verification()
    if found is None or found.parity is None:
        return "not verified"
    if not found.losses:
        return "computes what the checkpoint does"
    worst = min(found.losses.values(), key=lambda one: one.token_agreement)
    return f"{worst.token_agreement:.1%} of tokens as in the checkpoint"


class _OnTerminal:
    """Shows what a conversion tells, and says `title` once the first stage, the check, is passed."""

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
    """Run the conversion to its end, its output in the model's log."""
    try:
        require_prep()
        kept.write(record)
        kept.log.unlink(missing_ok=True)
        _run(kept, record, options, on_event)
    except ConversionError as refusal:
        kept.forget_if_empty()
        raise ModelError(str(refusal)) from None


def _run(kept: KeptModel, record: Record, options: tuple[str, ...], on_event: OnEvent) -> None:
    # -P: a model_prep.py in the folder where the command was started is not ours.
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
    """On stderr: stdout is for answers."""
    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
