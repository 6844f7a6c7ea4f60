"""Opens data sets of all known forms as rows; knows nothing of runs, queues or generation."""

from producer.sources.bad_rows import BadRowPolicy, BadRows
from producer.sources.files import shared_folder
from producer.sources.recognise import open_source, own_folders, place_of
from producer.sources.refusal import SourceError, shown
from producer.sources.several import open_sources, shown_sources
from producer.sources.skipped import Skipped
from producer.sources.source import Format, PlainSource, Quoting, Source, SourceOptions

__all__ = [
    "BadRowPolicy",
    "BadRows",
    "Format",
    "PlainSource",
    "Quoting",
    "Skipped",
    "Source",
    "SourceError",
    "SourceOptions",
    "open_source",
    "open_sources",
    "own_folders",
    "place_of",
    "shared_folder",
    "shown",
    "shown_sources",
]
