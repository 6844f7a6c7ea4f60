"""Data sets of Hugging Face `datasets`: saved to disk, as Arrow parts, and a hub that is not there."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from contract.job import ImagePath
from producer.rows import Embedded
from producer.sources import Source, SourceError, SourceOptions, open_source
from tests.support.processes import ROOT

datasets = pytest.importorskip("datasets")
ArrowWriter = pytest.importorskip("datasets.arrow_writer").ArrowWriter


def opened(source: str | Path, **options: Any) -> Source:
    return open_source(str(source), SourceOptions(**options))


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 4), shade).save(stream, "PNG")
    return stream.getvalue()


def dataset(folder: Path, count: int = 70, column: str = "image") -> Any:
    images: list[Any] = [{"bytes": png(number), "path": None} for number in range(count)]
    images[5] = {"bytes": None, "path": str(folder / "five.png")}
    (folder / "five.png").write_bytes(png(5))
    features = datasets.Features(
        {
            column: datasets.Image(),
            "question": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "tags": datasets.List(datasets.Value("string")),
        }
    )
    questions = [f"Q{number}?" if number % 2 else None for number in range(count)]
    return datasets.Dataset.from_dict(
        {
            column: images,
            "question": questions,
            "label": [number % 2 for number in range(count)],
            "tags": [["a", "b"]] * count,
        },
        features=features,
    )


def check(source: Source, count: int = 70, *, saved: bool = True) -> None:
    """What is saved has its files within; parts may name them."""
    found = list(source.rows())
    assert [row.id for row in found] == [str(number + 1) for number in range(count)]
    assert source.columns == ("label", "tags")
    assert found[1].columns == {"label": "dog", "tags": ["a", "b"]}
    assert [q.messages for q in found[1].questions] == ["Q1?"]
    assert found[0].questions == ()
    for number in (*range(count), 3):
        image = found[number].image
        if number == 5 and not saved:
            assert isinstance(image, ImagePath)
            assert image.to_path().read_bytes() == png(5)
        else:
            assert isinstance(image, Embedded)
            assert source.read(image.place) == png(number)
    assert list(source.rows()) == found


@pytest.mark.parametrize("column", ["image", "picture"])
def test_a_data_set_saved_to_disk(tmp_path: Path, column: str) -> None:
    dataset(tmp_path, column=column).save_to_disk(str(tmp_path / "saved"), num_shards=2)
    check(opened(tmp_path / "saved"))


def test_a_selection_keeps_its_order(tmp_path: Path) -> None:
    dataset(tmp_path).select([9, 3]).save_to_disk(str(tmp_path / "saved"))
    source = opened(tmp_path / "saved")
    first, second = source.rows()
    assert isinstance(first.image, Embedded)
    assert isinstance(second.image, Embedded)
    assert [source.read(first.image.place), source.read(second.image.place)] == [png(9), png(3)]


def test_splits_are_chosen(tmp_path: Path) -> None:
    both = datasets.DatasetDict(train=dataset(tmp_path), test=dataset(tmp_path, 7))
    both.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(SourceError, match='several splits; choose one of "train", "test" with --split'):
        opened(tmp_path / "saved")
    with pytest.raises(SourceError, match='no split "dev"; choose one of'):
        opened(tmp_path / "saved", split="dev")
    check(opened(tmp_path / "saved", split="test"), 7)


def test_arrow_and_parquet_parts(tmp_path: Path) -> None:
    whole = dataset(tmp_path)
    (tmp_path / "parts").mkdir()
    for part, numbers in enumerate((range(40), range(40, 70))):
        path = tmp_path / "parts" / f"train-{part:05d}-of-00002.arrow"
        with ArrowWriter(features=whole.features, path=str(path)) as writer:
            writer.write_table(whole.data.table.take(list(numbers)))
            writer.finalize()
    check(opened(tmp_path / "parts"), saved=False)
    with pytest.raises(SourceError, match='no split "test"; its parts are of "train"'):
        opened(tmp_path / "parts", split="test")
    (tmp_path / "parquet").mkdir()
    whole.to_parquet(str(tmp_path / "parquet" / "train-00000-of-00001.parquet"), batch_size=20)
    assert len(list(opened(tmp_path / "parquet", split="train").rows())) == 70


def test_two_columns_of_images_want_a_choice(tmp_path: Path) -> None:
    whole = dataset(tmp_path, column="left")
    whole = whole.add_column("right", [png(200)] * 70).cast_column("right", datasets.Image())
    whole.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(SourceError, match='"left", "right" could each be the image'):
        opened(tmp_path / "saved")
    source = opened(tmp_path / "saved", image_column="right")
    row = next(source.rows())
    assert isinstance(row.image, Embedded)
    assert source.read(row.image.place) == png(200)
    assert source.columns == ("label", "tags")


def test_a_broken_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(SourceError, match="cannot be loaded"):
        opened(tmp_path)


def test_a_hub_out_of_reach_is_told_in_a_sentence(tmp_path: Path) -> None:
    script = (
        "from producer.sources import *\n"
        "try: open_source('hf://owner/name', SourceOptions(split='train'))\n"
        "except SourceError as error: print(error)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("hf://owner/name cannot be loaded: ")
    assert ran.stdout.count("\n") == 1


def test_a_hub_name_has_two_parts() -> None:
    with pytest.raises(SourceError, match="is not hf://OWNER/NAME"):
        opened("hf://name")
