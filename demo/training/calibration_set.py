"""Makes the built-in calibration set of model_prep from photographs in Python packages and drawn pictures.

python -m demo.training.calibration_set WHEELS

WHEELS is a folder with the wheels of PHOTOGRAPHS, as `pip download --no-deps` puts them there.
"""

import bz2
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from PIL import Image

from demo.scenes import draw, make_scene
from demo.training.calibration_pages import PAGES
from model_prep.builtin import CALIBRATION_JSONL, FOLDER, HELD_OUT_JSONL, SOURCES_MD

LONGEST_PX: Final = 640
QUALITY: Final = 80
"""JPEG quality of a photograph."""
PUBLIC_DOMAIN: Final = "public domain"
CC0: Final = "CC0 1.0"
CC_BY: Final = "CC BY 2.0"
FIRST_SCENE: Final = 960_000
"""First seed of the scenes, which are neither trained on nor evaluated."""
RACCOON_PX: Final = (768, 1024)
"""(height, width) of the raw pixels in scipy's face.dat."""


@dataclass(frozen=True)
class Photograph:
    """A photograph in a wheel, and what SOURCES.md says of it."""

    name: str
    package: str
    member: str
    author: str
    licence: str
    found: str
    """Where package or author has it from."""
    text: str
    held_out: bool = False
    crop: tuple[float, float, float, float] | None = None
    """(top, left, bottom, right) as shares of height and width."""


SKIMAGE: Final = "scikit-image 0.26.0"
SKLEARN: Final = "scikit-learn 1.9.1"
MATPLOTLIB: Final = "matplotlib 3.11.2"
SCIPY: Final = "scipy 1.11.4"
PHOTOGRAPHS: Final = (
    Photograph(
        "astronaut", SKIMAGE, "skimage/data/astronaut.png", "NASA", PUBLIC_DOMAIN,
        "https://flic.kr/p/r9qvLn", "Who is shown in this image, and what is she wearing?", held_out=True,
    ),
    Photograph(
        "flower", SKLEARN, "sklearn/datasets/images/flower.jpg", "vultilion", CC_BY,
        "https://www.flickr.com/photos/vultilion/6056698931/", "Describe the image.", held_out=True,
    ),
    Photograph(
        "raccoon", SCIPY, "scipy/misc/face.dat", "public-domain-image.com", PUBLIC_DOMAIN,
        "http://www.public-domain-image.com", "Which animal is this? Answer with one word.", held_out=True,
    ),
    Photograph(
        "coffee", SKIMAGE, "skimage/data/coffee.png", "Rachel Michetti", CC0,
        "Pikolo Espresso Bar", "Describe everything in the picture in detail, and where it is.",
    ),
    Photograph(
        "cat", SKIMAGE, "skimage/data/chelsea.png", "Stefan van der Walt", CC0,
        "scikit-image", "Write a caption for this image.",
    ),
    Photograph(
        "rocket", SKIMAGE, "skimage/data/rocket.jpg", "SpaceX", PUBLIC_DOMAIN,
        "https://www.flickr.com/photos/spacexphotos/16511594820/", "What is happening in this image?",
    ),
    Photograph(
        "stars", SKIMAGE, "skimage/data/hubble_deep_field.jpg", "NASA, HubbleSite", PUBLIC_DOMAIN,
        "http://hubblesite.org/newscenter/archive/releases/2012/37/image/a/", "What is shown in this image?",
    ),
    Photograph(
        "photographer", SKIMAGE, "skimage/data/camera.png", "Lav Varshney", CC0,
        "scikit-image", "Is this photo taken indoors or outdoors? Answer with one word.",
    ),
    Photograph(
        "clock", SKIMAGE, "skimage/data/clock_motion.png", "Stefan van der Walt", PUBLIC_DOMAIN,
        "scikit-image", "Which time does the clock show?",
    ),
    Photograph(
        "admiral", MATPLOTLIB, "matplotlib/mpl-data/sample_data/grace_hopper.jpg", "United States Navy",
        PUBLIC_DOMAIN, "http://commons.wikimedia.org/wiki/File:Grace_Hopper.jpg", "Describe this person.",
    ),
    Photograph(
        "temple", SKLEARN, "sklearn/datasets/images/china.jpg", "danielbuechele", CC_BY,
        "https://www.flickr.com/photos/danielbuechele/6061409035/",
        "What text or numbers can be read in the image?",
    ),
    Photograph(
        "roof", SKLEARN, "sklearn/datasets/images/china.jpg", "danielbuechele", CC_BY,
        "https://www.flickr.com/photos/danielbuechele/6061409035/", "Describe the image.",
        crop=(0.0, 0.25, 1.0, 0.6),
    ),
    Photograph(
        "cup", SKIMAGE, "skimage/data/coffee.png", "Rachel Michetti", CC0,
        "Pikolo Espresso Bar", "What colours are there, and what has them?", crop=(0.4, 0.0, 0.9, 1.0),
    ),
)  # fmt: skip
SCENES: Final = (
    ("scene-1", "Describe the image.", False),
    ("scene-2", "Which number is printed in the image?", False),
    ("scene-3", "How many shapes are there?", False),
    ("scene-4", "Describe the image.", False),
    ("scene-5", "Describe the image.", True),
    ("scene-6", "Which number is printed in the image?", True),
)
"""(name, text, held out)."""


@dataclass(frozen=True)
class Entry:
    """A picture of the set, and its line in SOURCES.md."""

    name: str
    picture: Image.Image
    text: str
    held_out: bool
    source: tuple[str, str, str]
    """Origin, author and licence."""
    photograph: bool

    @property
    def file(self) -> str:
        return f"{self.name}.{'jpg' if self.photograph else 'png'}"


def photographs(wheels: Path) -> Iterator[Entry]:
    """The photographs, shrunk to LONGEST_PX."""
    for one in PHOTOGRAPHS:
        package, version = one.package.split()
        (wheel,) = wheels.glob(f"{package.replace('-', '_')}-{version}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(one.member)
        picture = _raccoon(content) if one.member.endswith(".dat") else Image.open(io.BytesIO(content))
        picture = picture.convert("RGB")
        if one.crop is not None:
            top, left, bottom, right = one.crop
            width, height = picture.size
            picture = picture.crop(
                (round(left * width), round(top * height), round(right * width), round(bottom * height))
            )
        picture.thumbnail((LONGEST_PX, LONGEST_PX))
        source = (f"{one.found}, in {one.package}: `{one.member}`", one.author, one.licence)
        yield Entry(one.name, picture, one.text, one.held_out, source, photograph=True)


def drawn() -> Iterator[Entry]:
    """Scenes of the demo model, and pages, charts and windows."""
    source = ("drawn by demo/training/calibration_set.py", "the Captionmill developers", "Apache-2.0")
    for seed, (name, text, held_out) in enumerate(SCENES, start=FIRST_SCENE):
        yield Entry(name, draw(make_scene(seed, scale=3.0)), text, held_out, source, photograph=False)
    for page in PAGES:
        yield Entry(page.name, page.draw(), page.text, page.held_out, source, photograph=False)


def _raccoon(content: bytes) -> Image.Image:
    height, width = RACCOON_PX
    return Image.frombytes("RGB", (width, height), bz2.decompress(content))


def main(wheels: Annotated[Path, typer.Argument(help="Folder with the wheels.")]) -> None:
    """Write pictures, manifests and SOURCES.md into model_prep/builtin."""
    entries = [*photographs(wheels), *drawn()]
    for old in [*FOLDER.glob("*.jpg"), *FOLDER.glob("*.png")]:
        old.unlink()
    for one in entries:
        if one.photograph:
            one.picture.save(FOLDER / one.file, quality=QUALITY, optimize=True)
        else:
            one.picture.quantize(64, dither=Image.Dither.NONE).save(FOLDER / one.file, optimize=True)
    for manifest, held_out in ((CALIBRATION_JSONL, False), (HELD_OUT_JSONL, True)):
        lines = [
            json.dumps({"image": one.file, "question": one.text})
            for one in entries
            if one.held_out == held_out
        ]
        (FOLDER / manifest).write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = [
        f"| {one.file} | {'held out' if one.held_out else 'calibration'} | {' | '.join(one.source)} |"
        for one in entries
    ]
    (FOLDER / SOURCES_MD).write_text("\n".join([*HEAD, *rows, ""]), encoding="utf-8")


HEAD: Final = (
    "# Pictures of the built-in calibration set",
    "",
    "Photographs were shrunk, some were cropped, and all were stored as JPEG. CC BY 2.0 is",
    "<https://creativecommons.org/licenses/by/2.0/>, CC0 1.0 is <https://creativecommons.org/publicdomain/zero/1.0/>.",
    "",
    "| file | use | source | author | licence |",
    "| --- | --- | --- | --- | --- |",
)


if __name__ == "__main__":
    typer.run(main)
