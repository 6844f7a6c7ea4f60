"""Several images in one question: in a job, in a manifest, in a run, in a prompt and in a worker."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from PIL import Image
from pydantic import ValidationError

from contract.answer import Answer
from contract.failure import Failure
from contract.job import (
    INLINE_MAX_BYTES,
    MOST_IMAGES,
    GenerationParameters,
    ImagePart,
    ImagePath,
    ImageStored,
    Job,
    Question,
    TextPart,
    Turn,
)
from producer.planner import Planner
from producer.question_planner import QuestionPlanner
from producer.questions import read_prompts
from producer.rows import Row
from producer.run_folder import RunFolder
from producer.sinks.json_lists import llava_entries
from producer.sinks.sink import SinkOptions
from producer.sources import SourceError, SourceOptions, open_source
from producer.submission import Submission
from producer.work import work_on
from tests.support.answered import answered_row
from tests.support.fakes import IMAGE_TOKENS, FakeEngine, FakeModel
from tests.support.producer_driver import Workers, lines
from tests.worker.test_llava_parity import picture
from worker.images.decoder import Decoder
from worker.images.image_file import ImageLimits, read_bytes
from worker.llava.model import LlavaModel
from worker.service import Service

IMAGE = {"type": "image"}
TEXT = {"type": "text", "text": "What?"}
LIMITS = ImageLimits(max_bytes=10**6, max_px=10**6, max_side_px=10**4, max_aspect=50.0)


def job(*images: str, messages: Any = "What?", **changes: Any) -> dict[str, Any]:
    first, *more = [{"kind": "path", "path": path} for path in images]
    return {
        "run": "r",
        "index": 0,
        "image": first,
        "more_images": more,
        "questions": [{"id": "q", "messages": messages}],
        **changes,
    }


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (job("a", "b"), None),
        (job("a", "b", messages=user(IMAGE, TEXT, IMAGE)), None),
        (job("a", "b", messages=user(TEXT)), None),
        (job("a", "b", messages=user(IMAGE, TEXT)), "places 1 images, and the job has 2"),
        (job("a", messages=user(IMAGE, IMAGE, TEXT)), "places 2 images, and the job has 1"),
        (job("a") | {"image": None, "more_images": job("a", "b")["more_images"]}, "those after image"),
        (job(*["a"] * MOST_IMAGES), None),
        (job(*["a"] * (MOST_IMAGES + 1)), f"at most {MOST_IMAGES - 1} items"),
        (job("a", messages=user(*[IMAGE] * (MOST_IMAGES + 1))), f"at most {MOST_IMAGES} images"),
        (
            job(
                "a", "b", messages=[*user(IMAGE, TEXT), {"role": "assistant", "content": "A."}, *user(IMAGE)]
            ),
            "in its first user turn",
        ),
    ],
)
def test_a_job_has_as_many_images_as_its_questions_place(asked: dict[str, Any], sentence: str | None) -> None:
    if sentence is not None:
        with pytest.raises(ValidationError, match=sentence):
            Job.model_validate(asked)
        return
    made = Job.model_validate(asked)
    assert Job.model_validate_json(json.dumps(made.to_message())) == made
    alone = list(made.each_image())
    assert [one.image for one in alone] == [made.image, *made.more_images]
    assert not any(one.more_images for one in alone)


def rows_of(folder: Path, name: str, *records: dict[str, Any]) -> list[Row]:
    (folder / name).write_text("\n".join(json.dumps(record) for record in records))
    return list(open_source(str(folder / name), SourceOptions()).rows())


def test_manifests_name_images_in_their_order(tmp_path: Path) -> None:
    parts = [{"type": "image_url", "image_url": {"url": name}} for name in ("b.png", "https://x.org/a.png")]
    talk = user(TEXT, *parts)
    body = {"model": "m", "messages": talk}
    batch = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    found = [
        *rows_of(
            tmp_path,
            "rows.jsonl",
            {"images": ["b.png", "https://x.org/a.png"], "question": "Same?", "label": 7},
            {"messages": talk},
            {"images": ["b.png"], "question": "What?"},
        ),
        *rows_of(tmp_path, "batch.jsonl", batch),
    ]
    named = [[getattr(one, "url", None) or one.to_path().name for one in row.images] for row in found]  # type: ignore[union-attr]
    assert named == [["b.png", "https://x.org/a.png"]] * 2 + [["b.png"], ["b.png", "https://x.org/a.png"]]
    assert [row.name for row in found] == ["b.png"] * 4
    assert found[0].columns == {"label": 7}


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"images": []}, '"images" is empty'),
        ({"images": ["a.png", 7]}, "7 names no image: a path or a URL does"),
        ({"images": ["a.png", "data:image/png;base64,AAAA"]}, "each is named by a path or a URL"),
        ({"images": ["a.png"] * (MOST_IMAGES + 1)}, f"at most {MOST_IMAGES}"),
    ],
)
def test_lists_of_images_that_cannot_be_asked_about(
    tmp_path: Path, record: dict[str, Any], sentence: str
) -> None:
    (row,) = rows_of(tmp_path, "rows.jsonl", record | {"question": "What?"})
    assert row.refusal is not None
    assert sentence in row.refusal.message
    assert row.images == ()


def test_conversations_for_training_name_all_images(tmp_path: Path) -> None:
    first, second = (ImagePath.of(tmp_path / name) for name in ("a.png", "b.png"))
    row = answered_row(0, "Yes.", "A dog.", name="a.png", image=first, more_images=(second,))
    (entry,) = llava_entries(row, SinkOptions())
    assert entry["image"] == [str(tmp_path / name) for name in ("a.png", "b.png")]
    told = [turn["value"] for turn in entry["conversations"] if turn["from"] == "human"]
    assert told == ["<image>\n<image>\nWhat 1?", "What 2?"]


def test_questions_of_the_run_place_the_images_of_rows(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "rows.jsonl", {"images": ["a.png", "b.png"]}, {"image": "a.png"})
    prompts = read_prompts(["<image> or <image>?", "<image><image>Same?", "Which?"], None, None)
    question_planner = QuestionPlanner(prompts, GenerationParameters(), "high")
    told = [[one.asked for one in question_planner.ready(row, {})] for row in rows]
    asked = [one.messages for one in told[0] if isinstance(one, Question)]
    assert [turn.image_count for turn in asked[0] if isinstance(turn, Turn)] == [2]
    assert asked[1:] == ["Same?", "Which?"]
    assert [isinstance(one, Question) for one in told[1]] == [False, False, True]
    question_planner.check(rows[1])
    with pytest.raises(SourceError, match=r"^Question q1 fits no row\. .* has 1 image, and its"):
        question_planner.refuse_unfit()
    question_planner.check(rows[0])
    question_planner.refuse_unfit()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate("abc"):
        (folder / f"{name}.png").write_bytes(bytes([number]) * (INLINE_MAX_BYTES + 1))
    return folder


@pytest.mark.parametrize("ship", [False, True])
def test_a_run_asks_once_about_the_same_images_in_the_same_order(
    photos: Path, connection: redis.Redis, ship: bool
) -> None:
    asked = (
        ["a.png", "b.png"],
        ["b.png", "a.png"],
        ["a.png", "b.png"],
        ["a.png"],
        ["c.png", "b.png", "a.png"],
    )
    rows_of(photos, "rows.jsonl", *({"images": names} for names in asked))
    submission = Submission(
        sources=(str(photos / "rows.jsonl"),), prompts=read_prompts(("What?",), None, None), ship=ship
    )
    with closing(RunFolder(photos.parent / "out", create=True)) as run:
        Planner(run, submission, submission.open()).plan()
        workers = Workers(connection)
        with work_on(run, connection, workers, feed=True, collect=True, window=100) as work:
            list(work.run.rounds())
            work.finish(keep_done_s=60)
        assert [job.image_count for job in workers.jobs] == [2, 2, 1, 3]
        sent = [one.image for job in workers.jobs for one in job.each_image()]
        assert [isinstance(image, ImageStored) for image in sent] == [ship] * 8
        told = lines(run.path)
        assert [line.get("images") for line in told] == [
            [str(photos / name) for name in names] if len(names) > 1 else None for names in asked
        ]
        assert [line["image"] for line in told] == [str(photos / names[0]) for names in asked]


def test_a_worker_looks_at_each_image_and_says_which_it_could_not(images: Path) -> None:
    for name, size in (("a.png", (30, 20)), ("b.png", (50, 40))):
        Image.new("RGB", size).save(images / name)
    model, engine = FakeModel(), FakeEngine()

    def fetch(one: Job) -> bytes:
        assert isinstance(one.image, ImagePath)
        return read_bytes(one.image.to_path(), (images,), LIMITS.max_bytes)

    service = Service(model, engine, fetch, Decoder(LIMITS, "none"))
    talks = [user(IMAGE, TEXT, IMAGE), "What?", user(TEXT)]
    questions = [{"id": f"q{number}", "messages": talk} for number, talk in enumerate(talks)]
    answered = service.answer(Job.model_validate(job("b.png", "a.png", questions=questions)))
    assert model.encoded == [(40, 50), (20, 30)]
    assert model.alone == [False, False]
    tokens = [one.outcome.prompt_tokens for one in answered.results if isinstance(one.outcome, Answer)]
    assert tokens == [len("What?") + 2 * IMAGE_TOKENS] * 2 + [len("What?")]
    assert engine.requests[0].prefix is not None
    assert engine.requests[0].prefix.key == repr((40, 50, 20, 30)).encode()
    failed = service.answer(Job.model_validate(job("a.png", "none.png")))
    service.close()
    (outcome,) = (one.outcome for one in failed.results)
    assert isinstance(outcome, Failure)
    assert outcome.message.startswith("Image 2 of 2: ")


def test_prompts_are_shared_up_to_the_last_image_by_the_images_in_their_order(tiny_folder: Path) -> None:
    model = LlavaModel.load(tiny_folder, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}, 2**20)
    # Of the same size, so that their tokens do not tell them apart.
    first, second = (model.encode_image(picture((60, 130), seed=seed)) for seed in (1, 2))
    both = model.joined([first, second])

    def prompt(features: Any, *parts: ImagePart | TextPart) -> Any:
        return model.prompt(Question(id="q", messages=(Turn(role="user", content=parts),)), features)

    between, other, swapped, one = (
        prompt(both, ImagePart(), TextPart(text="And:"), ImagePart(), TextPart(text="What is it?")),
        prompt(both, ImagePart(), TextPart(text="And:"), ImagePart(), TextPart(text="Same?")),
        prompt(
            model.joined([second, first]),
            ImagePart(),
            TextPart(text="And:"),
            ImagePart(),
            TextPart(text="What is it?"),
        ),
        prompt(first, ImagePart(), TextPart(text="What is it?")),
    )
    tokens = between.prefix_tokens
    assert between.prefix_key == other.prefix_key
    assert other.prefix_tokens == tokens
    assert np.array_equal(between.inputs_embeds[:tokens], other.inputs_embeds[:tokens])
    assert len({between.prefix_key, swapped.prefix_key, one.prefix_key}) == 3
    assert between.image_tokens == len(first.packed) + len(second.packed)
    image_token = between.token_ids[tokens - 1]
    assert (between.token_ids == image_token).sum() == between.image_tokens
    assert image_token not in between.token_ids[tokens:]
