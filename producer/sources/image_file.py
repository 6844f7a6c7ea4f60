"""The row of one image that is named itself; opens no image."""

import os
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from contract.job import ImagePath, ImageUrl
from producer.rows import Row
from producer.sources.bad_rows import BadRows
from producer.sources.files import is_remote
from producer.sources.skipped import Skipped


class ImageFile:
    """One image, by the name it has in its folder."""

    columns: tuple[str, ...] | None = ()
    skipped = Skipped()
    notes: tuple[str, ...] = ()

    def __init__(self, place: str) -> None:
        """`place` is an absolute path or a URL."""
        self._place = place

    @property
    def images_folder(self) -> Path | None:
        return None if is_remote(self._place) else Path(self._place).parent

    def rows(self, _: BadRows | None = None, /) -> Iterator[Row]:
        if is_remote(self._place):
            name = os.path.basename(urllib.parse.urlsplit(self._place).path) or self._place
            yield Row(id=name, name=name, image=ImageUrl(url=self._place))
        else:
            name = os.path.basename(self._place)
            yield Row(id=name, name=name, image=ImagePath.of(self._place))

    def read(self, place: int) -> bytes:
        raise AssertionError(f"an image file embeds no other, at {place} or elsewhere")
