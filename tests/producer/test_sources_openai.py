"""OpenAI batch files: requests as rows, what they ask for, and requests that cannot be expressed."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from contract.failure import FailureCode
from contract.job import GenerationParameters, ImagePart, ImagePath, ImageUrl, TextPart
from producer.rows import Embedded, Row
from producer.sources import Source, SourceError, SourceOptions, open_source

PIXEL = b"not a real picture"
DATA_URL = "data:image/jpeg;base64,bm90IGEgcmVhbCBwaWN0dXJl"


def body(url: str | None = DATA_URL, **fields: Any) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": "What is in this image?"}]
    if url is not None:
        content.append({"type": "image_url", "image_url": {"url": url}})
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": content}], **fields}


def line(custom_id: Any = "r1", request: Any = None, **fields: Any) -> dict[str, Any]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body() if request is None else request,
    } | fields


def batch(folder: Path, *lines: Any, name: str = "batch.jsonl") -> Source:
    text = "".join(f"{json.dumps(one)}\n" for one in lines).encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return open_source(str(folder / name), SourceOptions())


def one(folder: Path, **fields: Any) -> Row:
    (row,) = batch(folder, line(request=body(**fields))).rows()
    return row


@pytest.mark.parametrize("name", ["batch.jsonl", "batch.jsonl.gz"])
def test_images_of_every_form(tmp_path: Path, name: str) -> None:
    urls = (DATA_URL, "https://example.org/a.png", "in/a b.png", "file:///abs/c.png", None)
    lines = [line(f"r{number}", body(url)) for number, url in enumerate(urls)]
    source = batch(tmp_path, *lines, name=name)
    found = list(source.rows())
    assert [row.refusal for row in found] == [None] * 5
    assert [row.id for row in found] == ["r0", "r1", "r2", "r3", "r4"]
    assert [row.name for row in found] == [None, *urls[1:]]
    assert isinstance(found[0].image, Embedded)
    assert source.read(found[0].image.place) == PIXEL
    assert [row.image for row in found[1:]] == [
        ImageUrl(url="https://example.org/a.png"),
        ImagePath.of(tmp_path / "in/a b.png"),
        ImagePath.of("/abs/c.png"),
        None,
    ]
    (question,) = found[0].questions
    assert question.turns(with_image=True)[0].content == (
        TextPart(text="What is in this image?"),
        ImagePart(),
    )
    assert (source.columns, found[0].columns) == (("model",), {"model": "gpt-4o-mini"})
    assert (found[0].parameters, found[0].detail) == ({}, None)
    assert list(source.rows()) == found


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({"max_completion_tokens": 9}, {"max_new_tokens": 9}),
        ({"max_tokens": 9, "max_completion_tokens": 9}, {"max_new_tokens": 9}),
        ({"temperature": 0, "top_p": 0.5, "seed": 3}, {"do_sample": False}),
        ({"top_p": 1, "seed": 3, "top_k": -1, "min_p": 0}, {}),
        ({"temperature": 0.7}, {"do_sample": True, "temperature": 0.7, "top_k": 0}),
        (
            {"temperature": 1, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "seed": 5, "n": 3},
            {
                "do_sample": True,
                "temperature": 1,
                "top_p": 0.9,
                "top_k": 7,
                "min_p": 0.1,
                "seed": 5,
                "num_return_sequences": 3,
            },
        ),
        ({"stop": "END"}, {"stop": ("END",)}),
        (
            {"stop": ["a", "b"], "length_penalty": 0.5, "repetition_penalty": 1.1},
            {"stop": ("a", "b"), "length_penalty": 0.5, "repetition_penalty": 1.1},
        ),
        (
            {
                "best_of": 1,
                "frequency_penalty": 0,
                "presence_penalty": 0.0,
                "logprobs": False,
                "response_format": {"type": "text"},
                "stream": False,
                "tools": None,
                "n": 1,
                "user": "me",
            },
            {"num_return_sequences": 1},
        ),
    ],
)
def test_fields_become_parameters(tmp_path: Path, fields: dict[str, Any], parameters: dict[str, Any]) -> None:
    row = one(tmp_path, **fields)
    assert (row.refusal, row.parameters) == (None, parameters)
    GenerationParameters.model_validate(row.parameters)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"frequency_penalty": 0.5}, '"frequency_penalty" is not offered.'),
        ({"presence_penalty": -1}, '"presence_penalty" is not offered.'),
        ({"logprobs": True}, '"logprobs" is not offered.'),
        ({"best_of": 4}, '"best_of" is not offered.'),
        ({"response_format": {"type": "json_object"}}, '"response_format" is not offered.'),
        ({"stream": True}, '"stream" is not offered.'),
        ({"guided_json": {}}, '"guided_json" is not offered.'),
        ({"max_tokens": 1, "max_completion_tokens": 2}, '"max_tokens" and "max_completion_tokens" differ.'),
        ({"max_tokens": "many"}, '"max_tokens" must be a whole number.'),
        ({"max_tokens": [1]}, '"max_tokens" must be a whole number.'),
        ({"max_tokens": 0}, "max_new_tokens: Input should be greater than or equal to 1."),
        ({"temperature": "hot"}, '"temperature" must be a number.'),
        ({"temperature": -1}, "temperature: Input should be"),
        ({"top_p": 0.5}, '"top_p" decides nothing without a "temperature" above 0.'),
        ({"n": 2}, "num_return_sequences needs as many num_beams, or do_sample."),
        ({"messages": []}, "a conversation is an optional system turn"),
        ({"messages": None}, '"messages" must be a list of turns.'),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.0"),
        ({"url": "data:image/png;base64,?"}, "what a data: URL holds is not base64."),
        ({"url": "\udce9://"}, "image"),
    ],
)
def test_what_cannot_be_expressed_is_refused_alone(
    tmp_path: Path, fields: dict[str, Any], sentence: str
) -> None:
    url = fields.pop("url", DATA_URL)
    source = batch(tmp_path, line("bad", body(url) | fields), line("good"))
    bad, good = source.rows()
    if sentence != "image":
        assert bad.refusal is not None
        assert bad.refusal.code == FailureCode.INVALID_JOB
        assert sentence in bad.refusal.message
        assert (bad.id, bad.image, bad.questions) == ("bad", None, ())
    assert (good.id, good.refusal) == ("good", None)


def test_two_images_within_and_foreign_endpoints_are_refused_alone(tmp_path: Path) -> None:
    two = body()
    two["messages"][0]["content"] *= 2
    rows = list(
        batch(tmp_path, line("a", two), line("b", method="GET"), line("c", url="/v1/embeddings")).rows()
    )
    messages = [row.refusal.message for row in rows if row.refusal is not None]
    assert messages[0] == (
        "of several images each is named by a path or a URL, and 2 of this row's 2 are within the source: "
        "write them to files."
    )
    assert messages[1:] == ["only POST /v1/chat/completions is answered."] * 2


def test_turns_and_detail(tmp_path: Path) -> None:
    request = body("a.png")
    request["messages"][0]["content"][1]["image_url"]["detail"] = "low"
    request["messages"] = [
        {"role": "developer", "content": "Be brief."},
        *request["messages"],
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Its colour?"},
    ]
    (row,) = batch(tmp_path, line(request=request)).rows()
    assert row.detail == "low"
    turns = row.questions[0].turns(with_image=True)
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"custom_id": "x", "method": "POST", "url": "/v1/chat/completions"}, '"body" is missing'),
        (line(7), '"custom_id" must be a string'),
        (line(request=[]), '"body" must be an object'),
        ([], "not a JSON object"),
    ],
)
def test_lines_that_are_no_batch_lines_stop_the_file(tmp_path: Path, bad: Any, sentence: str) -> None:
    with pytest.raises(SourceError, match=rf"batch\.jsonl, line 2: .*{sentence}"):
        list(batch(tmp_path, line(), bad).rows())


def test_a_file_changed_in_between_is_noticed(tmp_path: Path) -> None:
    source = batch(tmp_path, line())
    (row,) = source.rows()
    assert isinstance(row.image, Embedded)
    (tmp_path / "batch.jsonl").write_text("{}\n")
    with pytest.raises(SourceError, match="was changed while it was in use"):
        source.read(row.image.place)
