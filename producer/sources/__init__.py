"""Opens a data set of any known form as rows; knows nothing of runs, queues or generation."""

from producer.sources.opening import open_source
from producer.sources.refusal import SourceError, shown
from producer.sources.source import Format, Source, SourceOptions

__all__ = ["Format", "Source", "SourceError", "SourceOptions", "open_source", "shown"]
