"""Opens data sets of any known form as rows; knows nothing of runs, queues or generation."""

from producer.sources.opening import open_source, own_folders, place_of
from producer.sources.refusal import SourceError, shown
from producer.sources.several import open_sources, shared_folder, shown_sources
from producer.sources.skipped import Skipped
from producer.sources.source import Format, Source, SourceOptions

__all__ = [
    "Format",
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
