"""The command `export`: writes a run's outputs again; asks nothing."""

from contextlib import closing
from dataclasses import fields

import typer

from captionmill import config_file
from captionmill.app import RUNS, app, make_console
from captionmill.exits import sentences
from captionmill.options import AsJson, OutputChoices, RunFolderPath
from captionmill.runs import finished
from contract.option_groups import with_groups
from producer.run_folder import RunFolder
from producer.submission import Submission


@app.command(rich_help_panel=RUNS)
@with_groups
def export(
    folder: RunFolderPath,
    *,
    sinks: OutputChoices,
    as_json: AsJson = False,
    context: typer.Context,
) -> None:
    """Write a run's outputs again from its folder, without model, worker or server.

    Options given here replace the run's own. Exit codes as for `run`; 1 also if a row has no answer yet.
    """
    given = {param.name for param in config_file.given(context) if param.name is not None}
    with sentences(), closing(RunFolder(folder)) as opened:
        submission = _changed(opened.submission, sinks, given)
        with opened.written_again(submission, overwrite=sinks.overwrite) as outputs:
            code = finished(opened, outputs, {}, make_console(as_json=as_json), as_json=as_json)
    raise typer.Exit(code)


def _changed(submission: Submission, sinks: OutputChoices, given: set[str]) -> Submission:
    """The submission with the given output options. Raises SourceError and SinkError."""
    named = given & {field.name for field in fields(OutputChoices)}
    options = sinks.changed(submission.sink_options, named)
    changed = submission.model_copy(update={"sink_options": options})
    if not sinks.sink:
        return changed
    return changed.model_copy(update={"sinks": tuple(sinks.sink)}).beside_images(submission.open())
