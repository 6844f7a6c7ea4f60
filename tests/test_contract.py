"""The contract's types: what they accept, what they refuse, and what travels unchanged."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from contract.answer import Answer, JobResult
from contract.job import ImagePath, Job, Question

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
        [{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}],
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
        {"index": 2**32},
        {"questions": []},
        {"questions": [{"id": "q", "messages": "a"}, {"id": "q", "messages": "b"}]},
        {"image": {"kind": "path", "path": ""}},
        {"image": {"kind": "url", "url": "x"}},
        {"image": None, "questions": [{"id": "q", "messages": [USER]}]},
        {"parameters": {"num_beams": 0}},
        {"parameters": {"max_new_tokens": 0}},
        {"parameters": {"length_penalty": float("inf")}},
        {"parameters": {"early_stopping": "sometimes"}},
        {"parameters": {"temperature": 1.0}},
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


def test_a_job_survives_the_queue() -> None:
    whole = Job.model_validate(
        job(
            questions=[{"id": "q1", "messages": [SYSTEM, USER]}, {"id": "q2", "messages": "Und hier? 🙂"}],
            parameters={"num_beams": 4, "early_stopping": "never", "length_penalty": -0.5},
            deadline=1.5,
        )
    )
    assert Job.model_validate(json.loads(json.dumps(whole.to_message()))) == whole


def test_the_key_is_of_the_content_alone() -> None:
    first = Job.model_validate(job())
    assert first.key == Job.model_validate(job(run="other", index=7, deadline=3.0)).key
    others = [
        job(image={"kind": "path", "path": "b.png"}),
        job(questions=[{"id": "q1", "messages": "Who?"}]),
        job(parameters={"num_beams": 2}),
    ]
    assert first.key not in {Job.model_validate(other).key for other in others}


@pytest.mark.parametrize(
    "name",
    [b"a.png", "\u00e9\U0001f642.png".encode(), b"\xe9t\xe9.png", b"\xff\xfe", b"new\nline", b'"%41\\'],
)
def test_every_file_name_survives_the_queue(name: bytes) -> None:
    path = Path(os.fsdecode(b"/folder/" + name))
    reference = Job.model_validate(json.loads(json.dumps(job(image=ImagePath.of(path).model_dump())))).image
    assert reference is not None
    assert reference.to_path() == path


def test_no_score_that_json_cannot_hold() -> None:
    fields: dict[str, Any] = {"text": "", "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1}
    Answer(score=-1.0, **fields)
    with pytest.raises(ValidationError):
        Answer(score=float("nan"), **fields)


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
