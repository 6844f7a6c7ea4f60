"""The producer as a library: what its documentation shows, run as it stands there."""

import asyncio
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from PIL import Image
from pydantic import ValidationError

from bench.stub_worker import WORKED_KEY
from contract.answer import Answer
from producer import Client
from producer.connection import ServerError
from producer.ledger import LedgerError
from producer.sources import SourceError
from tests.support.processes import ROOT, spawn
from tests.support.producer_driver import texts

ROWS = 5


@pytest.fixture
def client(redis_url: str, tmp_path: Path) -> Iterator[Client]:
    worker = spawn(
        [sys.executable, "-m", "bench.stub_worker", redis_url, "count"], tmp_path / "worker.log", {}
    )
    with Client(redis_url) as made:
        yield made
    worker.kill()
    worker.wait()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(ROWS):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


def test_rows_come_as_they_are_answered(client: Client, photos: Path, tmp_path: Path) -> None:
    run = client.submit(
        photos, questions=["What is {name}?"], out=tmp_path / "out", parameters={"num_beams": 2}
    )
    assert run.rows == ROWS
    rows = {row.id: row for row in run}
    assert rows.keys() == {f"{n}.png" for n in range(ROWS)}
    outcome = rows["3.png"].answers[0].outcome
    assert isinstance(outcome, Answer)
    assert outcome.text == "What is 3.png? 3"
    assert len(texts(tmp_path / "out")) == ROWS
    assert run.folder.finished


def test_a_run_left_early_is_resumed(
    client: Client, photos: Path, tmp_path: Path, connection: redis.Redis
) -> None:
    rows = iter(client.submit(photos, questions=["What?"], out=tmp_path / "out", window=2))
    first = next(rows)
    del rows
    found = [row.id for row in client.resume(tmp_path / "out")]
    assert sorted(found) == [f"{n}.png" for n in range(ROWS)]
    assert first.id in found
    assert set(connection.hvals(WORKED_KEY)) == {b"1"}
    assert sorted(row.id for row in client.resume(tmp_path / "out")) == sorted(found)


def test_a_run_beside_other_tasks(client: Client, photos: Path, tmp_path: Path) -> None:
    async def both() -> tuple[list[str], list[str]]:
        async def ids(out: str) -> list[str]:
            run = Client(client.url).submit(photos, questions=[f"What, {out}?"], out=tmp_path / out)
            return [row.id async for row in run]

        one, two = await asyncio.gather(ids("one"), ids("two"))
        return one, two

    one, two = asyncio.run(both())
    assert sorted(one) == sorted(two) == [f"{n}.png" for n in range(ROWS)]


def test_what_cannot_be_submitted(client: Client, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match='no column "colour"'):
        client.submit(photos, questions=["Is it {colour}?"], out=tmp_path / "out")
    with pytest.raises(ValidationError, match="num_beams"):
        client.submit(photos, questions=["What?"], out=tmp_path / "out", parameters={"num_beams": 0})
    with pytest.raises(LedgerError, match="holds no run"):
        client.resume(tmp_path / "none")
    with pytest.raises(ServerError, match="Nothing listens"):
        Client("redis://127.0.0.1:1/0")


@pytest.mark.usefixtures("client")
def test_the_documentation_s_example(
    redis_url: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert photos == Path(os.getcwd()) / "photos"
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "producer.md").read_text(), re.S)
    assert "redis://127.0.0.1:6379/0" in example
    exec(example.replace("redis://127.0.0.1:6379/0", redis_url), {})
    assert len(texts(tmp_path / "answers")) == ROWS
