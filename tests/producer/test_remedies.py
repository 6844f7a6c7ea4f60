"""What is said about failures that hit every row alike: a table of codes and surroundings."""

from dataclasses import replace
from pathlib import Path

import pytest

from contract.failure import Failure, FailureCode
from contract.job import ImagePath, ImageUrl
from contract.store import WorkerRecord
from producer.remedies import HIT_EVERY_ROW, FailedRow, Surroundings, hits_every_row, remedy
from producer.rows import Row, RowImage

WORKER = WorkerRecord(
    worker="host-7", model="m", device="CPU", slots=2, time=0.0, started=0.0, image_roots=("/srv/a", "/srv/b")
)
HERE = ImagePath.of(__file__)
GONE = ImagePath.of("/no/such.png")
URL = ImageUrl(url="https://a.example/b.png")
TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    ("code", "image", "changes", "said"),
    [
        (
            "image_not_allowed",
            HERE,
            {},
            f"{__file__} is outside the image roots of the live workers (/srv/a, /srv/b). Start them with "
            f"captionmill worker --image-root {TESTS}, or CAPTIONMILL_IMAGE_ROOTS={TESTS}, or send images "
            "through the store with --ship.",
        ),
        (
            "image_not_allowed",
            HERE,
            {"image_folders": (TESTS, Path("/b c"))},
            f"--image-root {TESTS} --image-root '/b c', or CAPTIONMILL_IMAGE_ROOTS='{TESTS}:/b c', or send",
        ),
        ("image_not_allowed", HERE, {"workers": ()}, "outside the image roots of the live workers. Start"),
        ("image_not_allowed", HERE, {"ship": True}, f"CAPTIONMILL_IMAGE_ROOTS={TESTS}."),
        ("image_not_allowed", ImagePath.of(TESTS), {}, "No."),
        (
            "image_not_allowed",
            HERE,
            {"own": True},
            f"is outside the folders of the source (/photos), and only these are read: name {TESTS} as a "
            "source, too.",
        ),
        (
            "image_not_found",
            HERE,
            {},
            f"is here, but not on the machines of the live workers (host-7). Mount {TESTS} there under the "
            "same name, or send images through the store with --ship.",
        ),
        (
            "image_not_found",
            GONE,
            {},
            "no file /no/such.png, neither here nor for the workers: look",
        ),
        ("image_not_found", GONE, {"own": True}, "There is no file /no/such.png: look at the source"),
        ("image_unreadable", HERE, {}, "No. Let the user who runs the workers read it, or send images"),
        ("image_unreadable", HERE, {"own": True}, "No."),
        ("url_not_allowed", URL, {}, "CAPTIONMILL_URL_HOSTS"),
        ("download_failed", URL, {}, "No. Check whether the workers' machines reach that host."),
        (
            "wrong_model",
            HERE,
            {},
            "jobs ask for the model x; live workers have: m. Name one with --model.",
        ),
        ("wrong_model", HERE, {"workers": ()}, "live workers have: none."),
        ("unsupported_version", HERE, {}, "the same release"),
        ("exceeds_capacity", HERE, {}, "CAPTIONMILL_KV_CACHE_BYTES"),
        ("question_too_long", HERE, {}, "Ask a shorter question"),
        ("question_refused", HERE, {}, "No."),
    ],
)
def test_the_sentence(code: str, image: RowImage, changes: dict[str, object], said: str) -> None:
    fields: dict[str, object] = {
        "workers": (WORKER,),
        "own": False,
        "ship": False,
        "model": "x",
        "image_folders": (Path("/photos"),),
    }
    row = FailedRow(image, Failure(code=FailureCode(code), message="No."))
    found = remedy(row, Surroundings(**{**fields, **changes}))  # type: ignore[arg-type]
    assert hits_every_row([row])
    assert found == said if said == "No." else said in found


def test_a_link_is_told_with_where_it_leads(tmp_path: Path) -> None:
    link = tmp_path / "link.png"
    link.symlink_to(__file__)
    row = FailedRow(ImagePath.of(link), Failure(code=FailureCode.IMAGE_NOT_ALLOWED, message="No."))
    found = remedy(row, Surroundings((WORKER,), own=False, ship=False, model=None, image_folders=()))
    assert found.startswith(f"{link} leads to {__file__}, which is outside the image roots")
    assert f"--image-root {TESTS}," in found


@pytest.mark.parametrize("code", sorted(set(FailureCode) - HIT_EVERY_ROW))
def test_failures_of_single_rows(code: FailureCode) -> None:
    assert not hits_every_row([FailedRow(HERE, Failure(code=code, message="No."))])


def test_a_web_server_that_has_no_such_image_is_no_reason() -> None:
    failure = Failure(code=FailureCode.IMAGE_NOT_FOUND, message="No.")
    assert not hits_every_row([FailedRow(HERE, failure), FailedRow(URL, failure)])


def test_of_several_images_the_failure_says_which() -> None:
    failure = Failure(code=FailureCode.IMAGE_NOT_ALLOWED, message="Image 2 of 2: /x.png is outside.")
    row = Row(id="1", name=None, image=HERE, more_images=(GONE,))
    around = Surroundings((WORKER,), own=False, ship=False, model=None, image_folders=())
    assert remedy(FailedRow.of(row, failure), around) == failure.message
    alone = FailedRow.of(replace(row, more_images=()), failure)
    assert remedy(alone, around).startswith(f"{__file__} is outside")
