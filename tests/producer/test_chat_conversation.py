"""What the chat page asks: turns as transformers' chat template has them, and commands that do the same."""

import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from contract.answer import Answer
from contract.failure import Failure, FailureCode
from contract.job import Question
from demo.samples import IMAGES, NUMBER_QUESTION
from producer.chat.chosen import AnsweredBy, Chosen
from producer.chat.conversation import Conversation
from producer.chat.session import Progress
from tests.conftest import DEMO_MODEL
from tests.support.answered import answer
from tests.support.reference import Reference
from tests.support.runners import EXACT, stateful
from worker.engine.admission import Limits
from worker.engine.loop import Engine
from worker.engine.request import Request
from worker.llava.model import LlavaModel

QUESTIONS = (
    "Describe the image.",
    NUMBER_QUESTION,
    "How many shapes are there?",
    "Write a caption for this image.",
)
NEW_TOKENS = 40


def test_four_turns_are_the_tokens_of_transformers() -> None:
    checkpoint, folder = DEMO_MODEL / "checkpoint", DEMO_MODEL / "openvino"
    reference = Reference(checkpoint)
    processor = reference.processor
    model = LlavaModel.load(folder, "CPU", EXACT)
    engine = Engine(stateful(model.language_xml), model.embed, Limits(10**9, rows=4, step_tokens=4000))
    path = IMAGES / "06-wide.png"
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    features = model.encode_image(image)
    parameters = Chosen(max_new_tokens=NEW_TOKENS).parameters()
    conversation = Conversation().with_image(path)
    messages: list[dict[str, object]] = []
    for question in QUESTIONS:
        content = [{"type": "text", "text": question}]
        messages.append({"role": "user", "content": content if messages else [{"type": "image"}, *content]})
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        inputs = processor(images=image, text=text, return_tensors="pt")
        with torch.no_grad():
            found = reference.model.generate(
                **inputs,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=list(model.eos_token_ids),
            )
        wanted = found[0, inputs["input_ids"].shape[1] :].tolist()
        prompt = model.prompt(Question(id="q", messages=conversation.asking(question)), features)
        assert prompt.token_ids.tolist() == inputs["input_ids"][0].tolist()
        request = Request(
            inputs_embeds=prompt.inputs_embeds,
            token_ids=prompt.token_ids,
            eos_token_ids=model.eos_token_ids,
            parameters=parameters,
        )
        [generation] = engine.submit(request).result()
        assert list(generation.token_ids) == wanted
        said = model.decode(generation.token_ids, ())
        conversation = conversation.answered(question, said)
        messages.append({"role": "assistant", "content": [{"type": "text", "text": said}]})
    assert len(conversation.exchanges) == len(QUESTIONS)
    engine.close()


def test_an_image_begins_anew_and_words_alone_have_none() -> None:
    words = Conversation().answered("Hello?", "Hi.")
    assert [turn.image_count for turn in words.asking("And?")] == [0, 0, 0]
    about = words.with_image(Path("a.png"))
    assert [turn.image_count for turn in about.asking("What?")] == [1]
    assert about.with_image(None) == about
    later = about.answered("What?", "A dog.").answered("Colour?", " ")
    assert [turn.image_count for turn in later.asking("Which?")] == [1, 0, 0], "an empty answer is no turn"


@pytest.mark.parametrize(
    ("chosen", "options"),
    [
        (Chosen(), []),
        (Chosen(beams=4, max_new_tokens=9, detail=2), ["--max-new-tokens 9", "--num-beams 4", "--detail 2"]),
        (Chosen(temperature=0.5, detail="low"), ["--temperature 0.5", "--detail low", "--do-sample"]),
    ],
)
def test_the_command_says_what_was_chosen_and_no_more(chosen: Chosen, options: list[str]) -> None:
    lines = chosen.command("It's {so}?", AnsweredBy("redis://:secret@there:1/0")).split(" \\\n  ")
    question = shlex.quote("It's {{so}}?")
    assert lines == ["captionmill run FOLDER", f"--question {question}", "--out ANSWERS", *options]


def test_the_command_names_another_server_but_no_password() -> None:
    assert "--redis redis://there:1/0" in Chosen().command("What?", AnsweredBy("redis://there:1/0"))
    assert "secret" not in Chosen().command("What?", AnsweredBy("redis://:secret@there:1/0"))
    local = Chosen().command("What?", AnsweredBy("redis://:secret@there:1/0", "models/a b"))
    assert "--model 'models/a b'" in local
    assert "redis" not in local


def test_beams_and_a_temperature_are_refused_together() -> None:
    with pytest.raises(ValidationError):
        Chosen(beams=2, temperature=0.5).parameters()


def test_a_note_tells_how_it_went() -> None:
    ended = Progress(text="A dog.", first_s=0.5, seconds=1.5, outcome=answer("A dog."), ended=True)
    assert isinstance(ended.outcome, Answer)
    tokens = ended.outcome.completion_tokens
    assert ended.note() == f"0.50 s to the first token, {tokens - 1} tokens/s, {tokens} tokens"
    failed = Progress(outcome=Failure(code=FailureCode.IMAGE_BROKEN, message="Broken."), ended=True)
    assert failed.note() == ""
