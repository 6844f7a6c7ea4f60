"""The measurement of queue, store and disk: that it does the work it tells of."""

from pathlib import Path

import redis

from bench.queueing import Watched, whole


def test_every_row_goes_the_whole_way(redis_url: str, tmp_path: Path) -> None:
    found = whole(redis_url, tmp_path, 500)
    assert found["rows"] == 500
    assert found["rows_per_s"] > 0
    assert len(found["store_mib_by_tenth"]) == len(found["producer_mib_by_tenth"]) > 0


def test_tenths_are_medians(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as connection:
        watched = Watched(connection)
    assert watched.tenths([n * 2**20 for n in range(20)]) == [n * 2 + 0.5 for n in range(10)]
    assert watched.tenths([2**20]) == [1.0]
