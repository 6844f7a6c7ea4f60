"""Reads rows of Hugging Face data sets: saved to disk, in Arrow files, or from the hub; knows no run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from producer.rows import Row
from producer.sources.arrow import ArrowRows
from producer.sources.bad_rows import BadRows
from producer.sources.refusal import SourceError, library, listed, naming, shown
from producer.sources.source import PlainSource, SourceOptions

SAVED_FILES: Final = ("state.json", "dataset_dict.json")
HUB_PREFIX: Final = "hf://"
BATCH_ROWS: Final = 32


class SavedDataset(PlainSource):
    """One split of a data set. Images keep their encoding."""

    def __init__(self, name: str, dataset: Any, options: SourceOptions, root: str) -> None:
        self._name = name
        datasets = _library(name)
        if isinstance(dataset, datasets.DatasetDict):
            dataset = _split(name, dataset, options.split)
        elif options.split is not None and str(dataset.split) != options.split:
            raise SourceError(f'{shown(name)} has one split, and it is not "{options.split}".')
        labels = {
            column: list(feature.names)
            for column, feature in dataset.features.items()
            if isinstance(feature, datasets.ClassLabel)
        }
        self._dataset = dataset.with_format("arrow")
        with naming(shown(name)):
            self._table = ArrowRows(dataset.features.arrow_schema, options, root, labels)
        self.columns = self._table.columns

    def rows(self, bad: BadRows | None = None, /) -> Iterator[Row]:
        position = 0
        bad = bad or BadRows()
        for table in self._dataset.iter(BATCH_ROWS):
            yield from self._table.rows(table, position, shown(self._name), bad)
            position += table.num_rows
        if not position:
            raise SourceError(f"{shown(self._name)} has no rows.")

    def read(self, place: int) -> bytes:
        content = None
        if place < len(self._dataset) and self._table.image is not None:
            content = self._table.content(self._dataset[place].column(self._table.image)[0].as_py())
        if content is None:
            raise SourceError(f"{shown(self._name)} was changed while it was in use.")
        return content


def saved(folder: str, options: SourceOptions, root: str) -> SavedDataset:
    """A data set that `save_to_disk` wrote."""
    datasets = _library(folder)
    with _loading(folder, OSError, ValueError, KeyError, TypeError):
        loaded = datasets.load_from_disk(folder)
    return SavedDataset(folder, loaded, options, root)


def arrow_parts(folder: str, parts: Sequence[str], options: SourceOptions, root: str) -> SavedDataset:
    """A data set in Arrow files, as `datasets` caches them, in order of name."""
    datasets = _library(folder)
    with _loading(folder, OSError, ValueError, KeyError, TypeError):
        loaded = datasets.concatenate_datasets([datasets.Dataset.from_file(part) for part in parts])
    return SavedDataset(folder, loaded, options, root)


def from_hub(source: str, options: SourceOptions) -> SavedDataset:
    """`hf://owner/name` or `hf://owner/name/configuration`; downloads what is not in the cache."""
    datasets = _library(source)
    parts = source.removeprefix(HUB_PREFIX).strip("/").split("/")
    if not 1 < len(parts) < 4 or not all(parts):
        raise SourceError(f"{shown(source)} is not hf://OWNER/NAME or hf://OWNER/NAME/CONFIGURATION.")
    configuration = parts[2] if len(parts) == 3 else None
    # Network, hub and files may lead to any exception.
    with _loading(source, Exception):
        loaded = datasets.load_dataset(
            "/".join(parts[:2]), configuration, split=options.split, streaming=False
        )
    return SavedDataset(source, loaded, options, str(Path.cwd()))


def _split(name: str, splits: Any, split: str | None) -> Any:
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split is None or split not in splits:
        asked = "has several splits" if split is None else f'has no split "{split}"'
        raise SourceError(f"{shown(name)} {asked}; choose one of {listed(list(splits))} with --split.")
    return splits[split]


def _library(name: str) -> Any:
    return library("datasets", "datasets", shown(name))


@contextmanager
def _loading(source: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns `errors` into a SourceError with the first line of what they say."""
    try:
        yield
    except errors as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SourceError(f"{shown(source)} cannot be loaded: {reason.removesuffix('.')}.") from None
