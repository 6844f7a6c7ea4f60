"""Makes the row of a single image; opens no image."""

import os
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from contract.job import ImagePath, ImageUrl
from producer.rows import Row
from producer.sources.bad_rows import BadRows
from producer.sources.files import is_remote
from producer.sources.source import PlainSource


class ImageFile(PlainSource):
    """One image, named as in its folder."""

    def __init__(self, place: str) -> None:
        """`place` is an absolute path or a URL."""
        self._place = place
        self.images_folder = None if is_remote(place) else Path(place).parent

    def rows(self, _: BadRows | None = None, /) -> Iterator[Row]:
        if is_remote(self._place):
            name = os.path.basename(urllib.parse.urlsplit(self._place).path) or self._place
            yield Row(id=name, name=name, image=ImageUrl(url=self._place))
        else:
            name = os.path.basename(self._place)
            yield Row(id=name, name=name, image=ImagePath.of(self._place))
