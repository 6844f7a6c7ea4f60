"""Holds the reading of calibration samples to its sources, its choice and its limits; knows no model."""

import csv
import io
import json
import os
import re
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contract.installing import install_line
from model_prep.builtin import (
    CALIBRATION_JSONL,
    FOLDER,
    HELD_OUT_JSONL,
    SOURCES_MD,
    calibration_samples,
    held_out_samples,
)
from model_prep.calibration import MAX_PX, MAX_SIDE_PX, TEXTS, Samples, read_samples
from model_prep.refusal import ConversionError
from model_prep.settings import BUILTIN

COUNT = 12


def picture(number: int, size: tuple[int, int] = (24, 16)) -> Image.Image:
    """One colour, by which it is known again; `size` is Pillow's, width first."""
    return Image.new("RGB", size, (10 * number, 0, 0))


def numbers(samples: Samples) -> list[int]:
    return [int(np.asarray(sample.image)[0, 0, 0]) // 10 for sample in samples]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """COUNT images, half of them in a folder below, beside what is none."""
    root = tmp_path / "images"
    (root / "below").mkdir(parents=True)
    (root / ".hidden").mkdir()
    for number in range(COUNT):
        picture(number).save(root / ("below" if number % 2 else ".") / f"{number:02d}.png")
    picture(COUNT).save(root / ".hidden" / "no.png")
    (root / "notes.txt").write_text("no image")
    return root


def test_a_folder_gives_the_same_choice_again(folder: Path) -> None:
    samples = read_samples(str(folder), 5, seed=3)
    assert len(samples) == 5
    assert samples.skipped == 0
    assert numbers(read_samples(str(folder), 5, seed=3)) == numbers(samples)
    assert numbers(read_samples(str(folder), 5, seed=4)) != numbers(samples)
    assert sorted(numbers(read_samples(str(folder), COUNT))) == list(range(COUNT))
    assert [sample.text for sample in samples] == list(TEXTS[:5])


def test_what_cannot_be_read_is_passed_over_and_counted(folder: Path) -> None:
    (folder / "00.png").write_bytes(b"no image")
    whole = (folder / "02.png").read_bytes()
    (folder / "02.png").write_bytes(whole[: len(whole) // 2])
    (folder / "04.png").unlink()
    (folder / "04.png").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "13.png")
    samples = read_samples(str(folder), COUNT - 3)
    assert sorted(numbers(samples)) == [1, 3, *range(5, COUNT)]
    assert 0 < samples.skipped <= 4
    with pytest.raises(ConversionError) as refusal:
        read_samples(str(folder), COUNT)
    assert str(refusal.value).startswith(f"{folder} has 9 usable images in 13 entries; 12 are needed")


def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    side = int(MAX_PX**0.5)
    Image.new("1", (side, side + 1)).save(tmp_path / "bomb.png")
    with pytest.raises(ConversionError, match="0 usable images in 1 entries"):
        read_samples(str(tmp_path), 1)
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    (sample,) = read_samples(str(tmp_path), 1)
    assert sample.image.size == (MAX_SIDE_PX, MAX_SIDE_PX)


def test_images_are_upright_and_in_rgb(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(1, (30, 10)).save(tmp_path / "turned.jpg", exif=turned)
    (sample,) = read_samples(str(tmp_path), 1)
    assert (sample.image.size, sample.image.mode) == ((10, 30), "RGB")
    (tmp_path / "turned.jpg").unlink()
    picture(1).quantize(2).save(tmp_path / "palette.png")
    (sample,) = read_samples(str(tmp_path), 1)
    assert (sample.image.mode, sample.image.getpixel((0, 0))) == ("RGB", (10, 0, 0))


def test_a_jsonl_manifest_brings_its_texts(folder: Path) -> None:
    lines = [
        {"image": "00.png", "question": "How many?", "caption": "none"},
        {"image": str(folder / "02.png"), "caption": ["A dog.", "A cat."]},
        {"image": "below/01.png", "other": 1},
        {"question": "No image?"},
    ]
    manifest = folder / "rows.jsonl"
    manifest.write_text("\n\n".join(json.dumps(line) for line in lines))
    samples = read_samples(str(manifest), 3)
    said = dict(zip(numbers(samples), (sample.text for sample in samples), strict=True))
    assert said.pop(1) in TEXTS
    assert said == {0: "How many?", 2: "A dog."}


def test_a_csv_manifest_brings_its_texts(folder: Path) -> None:
    with (folder / "rows.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["image", "prompt"], ["00.png", "Count, then\nname them."], ["02.png", ""]]
        )
    samples = read_samples(str(folder / "rows.csv"), 2)
    said = dict(zip(numbers(samples), (sample.text for sample in samples), strict=True))
    assert said[0] == "Count, then\nname them."
    assert said[2] in TEXTS


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    broken, empty = tmp_path / "broken.jsonl", tmp_path / "empty.csv"
    broken.write_text('{"image": "a.png"}\n{"image": ')
    with pytest.raises(ConversionError, match="line 2 is not JSON"):
        read_samples(str(broken), 1)
    empty.write_text("path,caption\na.png,b\n")
    with pytest.raises(ConversionError, match="no line with an image"):
        read_samples(str(empty), 1)


def test_shards_give_images_with_their_texts(tmp_path: Path) -> None:
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard:05d}.tar", "w") as archive:
            for number in range(3 * shard, 3 * shard + 3):
                stream = io.BytesIO()
                picture(number).save(stream, "PNG")
                add(archive, f"set/{number:03d}.0.png", stream.getvalue())
                add(archive, f"set/{number:03d}.cls", b"7")
                if number == 1:
                    add(archive, "set/001.txt", b"A red square.\n")
                if number == 2:
                    add(archive, "set/002.json", json.dumps({"caption": "Dark."}).encode())
    samples = read_samples(str(tmp_path), 6)
    said = dict(zip(numbers(samples), (sample.text for sample in samples), strict=True))
    assert set(said) == set(range(6))
    assert (said[1], said[2]) == ("A red square.", "Dark.")
    assert said[0] in TEXTS
    assert sorted(numbers(read_samples(str(tmp_path / "00001.tar"), 3))) == [3, 4, 5]
    (tmp_path / "00002.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(ConversionError, match=r"00002\.tar is no WebDataset shard"):
        read_samples(str(tmp_path), 6)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def test_a_data_set_saved_to_disk_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [picture(number) for number in range(4)], "question": [f"q{n}" for n in range(4)]}
    saved = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": saved}).save_to_disk(str(tmp_path / "saved"))
    samples = read_samples(str(tmp_path / "saved"), 4)
    said = dict(zip(numbers(samples), (sample.text for sample in samples), strict=True))
    assert said == {number: f"q{number}" for number in range(4)}


def test_a_saved_data_set_is_refused_where_datasets_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConversionError, match=re.escape(install_line("datasets"))):
        read_samples(str(tmp_path), 1)


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="no folder or file"):
        read_samples(str(tmp_path / "missing"), 1)
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(ConversionError, match="no folder, no manifest"):
        read_samples(str(tmp_path / "weights.bin"), 1)


LICENCES = {"public domain", "CC0 1.0", "CC BY 2.0", "Apache-2.0"}


def test_the_built_in_set_is_split_and_each_picture_has_a_licence() -> None:
    pictures = {path.name for path in FOLDER.iterdir() if path.suffix in (".jpg", ".png")}
    used = [
        {json.loads(line)["image"] for line in (FOLDER / manifest).read_text().splitlines()}
        for manifest in (CALIBRATION_JSONL, HELD_OUT_JSONL)
    ]
    assert not used[0] & used[1]
    assert used[0] | used[1] == pictures
    rows = re.findall(r"^\| (\S+\.\w+) \| (.+) \|$", (FOLDER / SOURCES_MD).read_text(), re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(pictures)
    for name, row in rows:
        use, _source, author, licence = row.split(" | ")
        assert use == ("held out" if name in used[1] else "calibration")
        assert author
        assert licence in LICENCES
    assert all(any(name.endswith(".jpg") for name in part) for part in used), "a photograph in both"


def test_the_built_in_set_gives_what_it_has() -> None:
    whole = calibration_samples(BUILTIN, 50)
    assert len(whole) == 20
    assert len(calibration_samples(BUILTIN, 3)) == 3
    assert len(held_out_samples()) == 8
    assert whole.skipped == 0
    assert max(max(sample.image.size) for sample in (*whole, *held_out_samples())) <= 700
