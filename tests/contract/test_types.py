"""The contract's types: what they accept, what they refuse, and what travels unchanged."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from contract.answer import Answer, ChoiceProbability, JobResult
from contract.job import (
    INLINE_MAX_BYTES,
    GenerationParameters,
    ImageInline,
    ImageMember,
    ImagePath,
    ImageStored,
    ImageUrl,
    Job,
    Question,
)

USER = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
SAID = {"role": "assistant", "content": "A dog."}
AGAIN = {"role": "user", "content": "Which colour?"}
SYSTEM = {"role": "system", "content": "Be brief."}


def job(**changes: Any) -> dict[str, Any]:
    return {
        "run": "r",
        "index": 0,
        "image": {"kind": "path", "path": "a.png"},
        "questions": [{"id": "q1", "messages": "What?"}],
        **changes,
    }


@pytest.mark.parametrize(
    "messages",
    ["What?", [USER], [SYSTEM, USER], [USER, SAID, AGAIN], [AGAIN], [SYSTEM, USER, SAID, AGAIN]],
)
def test_conversations_accepted(messages: Any) -> None:
    Job.model_validate(job(questions=[{"id": "q1", "messages": messages}]))


@pytest.mark.parametrize(
    "messages",
    [
        "",
        "  ",
        [],
        [SYSTEM],
        [SAID],
        [USER, SAID],
        [USER, AGAIN],
        [USER, SYSTEM],
        [AGAIN, SAID, USER],
        [USER, SAID, USER],
        [{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}],  # of one image
        [{"role": "user", "content": [{"type": "video"}]}],
        [{"role": "tool", "content": "x"}],
    ],
)
def test_conversations_refused(messages: Any) -> None:
    with pytest.raises(ValidationError):
        Job.model_validate(job(questions=[{"id": "q1", "messages": messages}]))


@pytest.mark.parametrize(
    "changes",
    [
        {"run": ""},
        {"run": "a b"},
        {"run": "a{b}"},
        {"index": -1},
        {"index": 2**28},
        {"questions": []},
        {"questions": [{"id": "q", "messages": "a"}, {"id": "q", "messages": "b"}]},
        {"image": {"kind": "path", "path": ""}},
        {"image": {"kind": "url", "url": "x"}},
        {"image": None, "questions": [{"id": "q", "messages": [USER]}]},
        {"parameters": {"num_beams": 0}},
        {"parameters": {"max_new_tokens": 0}},
        {"parameters": {"length_penalty": float("inf")}},
        {"parameters": {"early_stopping": "sometimes"}},
        {"parameters": {"heat": 1.0}},
        {"detail": "medium"},
        {"detail": 0},
        {"questions": [{"id": "q", "messages": "a", "choices": ["yes"]}]},
        {"questions": [{"id": "q", "messages": "a", "choices": ["yes", ""]}]},
        {"questions": [{"id": "q", "messages": "a", "choices": ["yes", " "]}]},
        {"questions": [{"id": "q", "messages": "a", "choices": ["yes", "no", " yes"]}]},
        {"questions": [{"id": "q", "messages": "a", "choices": [str(n) for n in range(65)]}]},
        {"deadline": float("nan")},
        {"version": 2},
        {"colour": "red"},
        {"image": {"kind": "path", "path": "\udce9.png"}},
        {"questions": [{"id": "q", "messages": "\udce9"}]},
        {"questions": [{"id": "q", "messages": [{"role": "user", "content": "\udce9"}]}]},
        {"questions": [{"id": "\udce9", "messages": "What?"}]},
    ],
)
def test_jobs_refused(changes: dict[str, Any]) -> None:
    Job.model_validate(job())
    with pytest.raises(ValidationError):
        Job.model_validate(job(**changes))


@pytest.mark.parametrize("others", [{}, {"do_sample": True, "top_p": 0.5, "seed": 3}, {"num_beams": 4}])
def test_a_temperature_of_0_is_greedy(others: dict[str, Any]) -> None:
    greedy = GenerationParameters.model_validate({"temperature": 0, "max_new_tokens": 7, **others})
    assert greedy == GenerationParameters(max_new_tokens=7, num_beams=others.get("num_beams", 1))


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"num_beams": 4, "early_stopping": True, "num_return_sequences": 4, "length_penalty": -1.0},
        {"do_sample": True, "temperature": 0.2, "top_k": 0, "top_p": 0.9, "min_p": 0.1, "seed": 2**63 - 1},
        {"do_sample": True, "num_return_sequences": 64},
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "stop": ["\n", "###"]},
        {"min_new_tokens": 5, "max_new_tokens": 5},
        {"temperature": 1.0, "top_k": 50, "seed": 0},
    ],
)
def test_parameters_accepted(parameters: dict[str, Any]) -> None:
    accepted = GenerationParameters.model_validate(parameters)
    assert GenerationParameters.model_validate_json(accepted.model_dump_json()) == accepted


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"temperature": 0.5}, "without do_sample"),
        ({"top_k": 10}, "without do_sample"),
        ({"top_p": 0.5}, "without do_sample"),
        ({"min_p": 0.5}, "without do_sample"),
        ({"seed": 1}, "without do_sample"),
        ({"do_sample": True, "num_beams": 2}, "choose one"),
        ({"early_stopping": True}, "without num_beams"),
        ({"early_stopping": "never", "do_sample": True}, "without num_beams"),
        ({"num_return_sequences": 2}, "num_return_sequences needs"),
        ({"num_return_sequences": 3, "num_beams": 2}, "num_return_sequences needs"),
        ({"min_new_tokens": 6, "max_new_tokens": 5}, "min_new_tokens"),
        ({"min_new_tokens": -1}, "min_new_tokens"),
        ({"num_beams": 65}, "num_beams"),
        ({"do_sample": True, "temperature": float("inf")}, "temperature"),
        ({"do_sample": True, "temperature": float("nan")}, "temperature"),
        ({"do_sample": True, "top_k": -1}, "top_k"),
        ({"do_sample": True, "top_p": 0.0}, "top_p"),
        ({"do_sample": True, "top_p": 1.1}, "top_p"),
        ({"do_sample": True, "min_p": 1.1}, "min_p"),
        ({"do_sample": True, "seed": -1}, "seed"),
        ({"do_sample": True, "seed": 2**63}, "seed"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
        ({"stop": [""]}, "stop"),
        ({"stop": [str(n) for n in range(17)]}, "stop"),
        ({"length_penalty": float("nan")}, "length_penalty"),
    ],
)
def test_parameters_refused(parameters: dict[str, Any], message: str) -> None:
    """What is out of range, and what would decide nothing."""
    with pytest.raises(ValidationError, match=message):
        GenerationParameters.model_validate(parameters)


def test_a_job_survives_the_queue() -> None:
    whole = Job.model_validate(
        job(
            questions=[
                {"id": "q1", "messages": [SYSTEM, USER], "choices": ["yes", "no"]},
                {"id": "q2", "messages": "Und hier? 🙂"},
            ],
            detail=3,
            parameters={"num_beams": 4, "early_stopping": "never", "length_penalty": -0.5},
            deadline=1.5,
        )
    )
    assert Job.model_validate(json.loads(json.dumps(whole.to_message()))) == whole


def test_every_kind_of_image_survives_the_queue() -> None:
    kinds = (
        ImagePath.of("/photos/a.png"),
        ImageMember.of(os.fsdecode(b"/shards/\xe9-000000.tar"), 512, 70_000, "0001.jpg"),
        ImageUrl(url="https://example.org/a%20b.jpg?x=1"),
        ImageInline.of(b"\x89PNG\x00\xff"),
        ImageStored(sha256="0f" * 32),
    )
    for kind in kinds:
        assert Job.model_validate(json.loads(json.dumps(job(image=kind.model_dump())))).image == kind
    inline, url = kinds[3], kinds[2]
    assert isinstance(inline, ImageInline)
    assert inline.content() == b"\x89PNG\x00\xff"
    assert "example" not in repr(url)


@pytest.mark.parametrize(
    "image",
    [
        {"kind": "url", "url": "example.org/a.png"},
        {"kind": "inline", "base64": "no base64!"},
        {"kind": "inline", "base64": "A" * 4 * (INLINE_MAX_BYTES // 3 + 2)},
        {"kind": "stored", "sha256": "0F" * 32},
        {"kind": "member", "path": "a.tar", "offset": -1, "size_bytes": 3, "name": "a"},
        {"kind": "blob"},
    ],
)
def test_images_that_no_worker_could_read(image: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Job.model_validate(job(image=image))


def test_only_one_row_of_free_text_streams() -> None:
    Job.model_validate(job(stream=True))
    for other in (
        {"questions": [{"id": "a", "messages": "A?"}, {"id": "b", "messages": "B?"}]},
        {"questions": [{"id": "a", "messages": "A?", "choices": ["yes", "no"]}]},
        {"parameters": {"num_beams": 2}},
    ):
        with pytest.raises(ValidationError, match="stream"):
            Job.model_validate(job(stream=True, **other))


@pytest.mark.parametrize(
    "name",
    [b"a.png", "\u00e9\U0001f642.png".encode(), b"\xe9t\xe9.png", b"\xff\xfe", b"new\nline", b'"%41\\'],
)
def test_every_file_name_survives_the_queue(name: bytes) -> None:
    path = Path(os.fsdecode(b"/folder/" + name))
    reference = Job.model_validate(json.loads(json.dumps(job(image=ImagePath.of(path).model_dump())))).image
    assert isinstance(reference, ImagePath)
    assert reference.to_path() == path


def test_no_score_that_json_cannot_hold() -> None:
    fields: dict[str, Any] = {
        "text": "",
        "finish_reason": "stop",
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "score": -1.0,
        "mean_log_prob": -1.0,
    }
    Answer(**fields)
    for name in ("score", "mean_log_prob"):
        with pytest.raises(ValidationError):
            Answer(**fields | {name: float("nan")})
    with pytest.raises(ValidationError):
        ChoiceProbability(text="yes", probability=1.01, score=-1.0)


def test_a_result_survives_the_store() -> None:
    record = {
        "run": "r",
        "index": 3,
        "worker": "w",
        "model": "m",
        "seconds": 0.5,
        "results": [
            {
                "question": "q1",
                "outcome": {"kind": "failure", "code": "image_broken", "message": "It ends early."},
            },
            {
                "question": "q2",
                "outcome": {
                    "kind": "answer",
                    "text": "A dog.",
                    "finish_reason": "stop",
                    "prompt_tokens": 9,
                    "completion_tokens": 3,
                    "score": -0.25,
                    "mean_log_prob": -0.25,
                    "flags": ["truncated", "repetition"],
                    "alternatives": [
                        {
                            "text": "A cat.",
                            "finish_reason": "length",
                            "completion_tokens": 3,
                            "score": -0.5,
                            "mean_log_prob": -0.5,
                        }
                    ],
                    "choices": [{"text": "A dog.", "probability": 1.0, "score": -0.25}],
                },
            },
        ],
    }
    result = JobResult.model_validate(record)
    assert JobResult.model_validate_json(result.model_dump_json()) == result
    assert result.results[1].outcome.kind == "answer"


def test_the_short_form_places_the_image_before_the_text() -> None:
    question = Question(id="q", messages="What?")
    (with_image,) = question.turns(with_image=True)
    assert [part.type for part in with_image.content if not isinstance(part, str)] == ["image", "text"]
    assert question.uses_image(with_image=True)
    assert not question.uses_image(with_image=False)


def test_a_path_that_its_encoding_cannot_write_is_refused() -> None:
    """A worker could not even look for it."""
    assert ImagePath(path="é", encoding="latin-1").to_path().name.encode(errors="surrogateescape") == b"\xe9"
    with pytest.raises(ValidationError, match="the path cannot be written in latin-1"):
        ImagePath(path="€", encoding="latin-1")
