"""The page's elements and event handlers; knows no broker and no server."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import gradio

from contract.answer import Answer
from contract.counting import counted
from contract.failure import Failure
from contract.job import Detail
from producer.ask import InteractiveQuestion
from producer.chat.chosen import Chosen
from producer.chat.conversation import IMAGE_REFUSED, Conversation
from producer.chat.preview import preview_of
from producer.chat.session import Progress, Sessions
from producer.sources.heic import HEIC_SUFFIXES

IMAGE_ALONE: Final = "Describe the image."
"""The question for an image without a text."""
SHOW_EVERY_S: Final = 0.1
"""Seconds between two updates: a browser that redraws for each token has no time left to notice Stop."""
MOST_BEAMS: Final = 16
MOST_TEMPERATURE: Final = 2.0
AT_ONCE: Final = 16
"""Number of answers that the page waits for at once; further questions wait for their turn."""
SWEEP_S: Final = (3600, 24 * 3600)
"""(seconds between two sweeps for unused uploads, their age in seconds)."""
DETAILS: Final[tuple[tuple[str, Detail], ...]] = (
    ("high: every tile", "high"),
    ("auto: as many tiles as it fills", "auto"),
    ("low: one look", "low"),
    *((f"at most {counted(tiles, 'tile')}", tiles) for tiles in (1, 2, 4, 8)),
)
CSS: Final = """
#note { font-size: 0.85em; opacity: 0.75; }
#chat img { max-height: 14rem; width: auto; }
#chat button[title="Share"] { display: none; }
"""

Message = dict[str, Any]


class Page:
    """One page for all visitors; each has a session with its own conversation."""

    def __init__(self, sessions: Sessions, examples: Sequence[tuple[str, Path]]) -> None:
        """`examples` are questions and images to begin with; the images are served as they are."""
        self._sessions = sessions
        self._uploads: defaultdict[str, set[Path]] = defaultdict(set)
        self._examples = {path.resolve() for _, path in examples}
        if examples:
            gradio.set_static_paths(sorted(self._examples))
        self.blocks = self._build(examples)

    def _build(self, examples: Sequence[tuple[str, Path]]) -> gradio.Blocks:
        with gradio.Blocks(
            title="Captionmill", analytics_enabled=False, delete_cache=SWEEP_S, fill_height=True
        ) as blocks:
            conversation = gradio.State(Conversation())
            with gradio.Row(equal_height=False):
                with gradio.Column(scale=3, min_width=320):
                    chat, box, new = _talk(examples)
                with gradio.Column(scale=1, min_width=300):
                    settings, note = _settings()
                    with gradio.Accordion("Try on a folder", open=True):
                        gradio.Markdown(
                            "The question and these settings, for every image in a folder. Put the names of "
                            "your folder and of one for the answers in place of FOLDER and ANSWERS."
                        )
                        command = gradio.Code(
                            self.command(None, Conversation(), *_DEFAULT_VALUES),
                            language="shell",
                            interactive=False,
                            wrap_lines=True,
                            lines=3,
                            buttons=["copy"],
                            show_label=False,
                            elem_id="command",
                        )
            beams, _, temperature, _ = settings
            apart: Any = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
            for setting, decide in ((beams, _beams_chosen), (temperature, _temperature_chosen)):
                other = temperature if setting is beams else beams
                setting.input(decide, setting, [other, note], **apart)
            gradio.on(
                [box.input, *(setting.change for setting in settings)],
                self.command,
                [box, conversation, *settings],
                command,
                trigger_mode="always_last",
                **apart,
            )
            answered = box.submit(
                self.answer,
                [box, chat, conversation, *settings],
                [chat, box, conversation],
                concurrency_limit=AT_ONCE,
                show_progress="hidden",
                api_visibility="private",
            )
            answered.then(self.command, [box, conversation, *settings], command, **apart)
            box.stop(self.stop, None, None, **apart)
            gradio.on([new.click, chat.clear], self.begin_anew, None, [chat, conversation], **apart)
            blocks.unload(self.forget)
        return blocks

    # Event handlers
    def answer(
        self,
        request: gradio.Request,
        given: Message,
        shown: list[Message],
        conversation: Conversation,
        *settings: Any,
    ) -> Iterator[tuple[Any, Any, Conversation]]:
        """Yields new messages, box and conversation until the question has ended."""
        image = Path(given["files"][0]) if given["files"] else None
        question = given["text"].strip() or (IMAGE_ALONE if image else "")
        if not question:
            yield shown, gradio.skip(), conversation
            return
        if image is not None:
            preview = preview_of(image)
            shown = [*shown, {"role": "user", "content": {"path": str(preview)}}]
            if image.resolve() not in self._examples:
                self._uploads[request.session_hash or ""] |= {image, preview}
        shown = [*shown, {"role": "user", "content": question}]
        chosen = _chosen(*settings)
        about = conversation.with_image(image)
        yield [*shown, _said(_waiting_text(chosen))], _box(busy=True), conversation
        asked = InteractiveQuestion(about.image, about.asking(question), chosen.parameters(), chosen.detail)
        shown_at = 0.0
        for progress in self._sessions.ask(request.session_hash or "", asked):
            if not progress.ended and time.monotonic() - shown_at > SHOW_EVERY_S:
                shown_at = time.monotonic()
                yield [*shown, _said(progress.text)], gradio.skip(), conversation
        yield [*shown, *_ended(progress)], _box(busy=False), _after(conversation, about, question, progress)

    def stop(self, request: gradio.Request) -> None:
        self._sessions.stop(request.session_hash or "")

    def begin_anew(self, request: gradio.Request) -> tuple[list[Message], Conversation]:
        self.stop(request)
        return [], Conversation()

    def forget(self, request: gradio.Request) -> None:
        """The page was closed: stop its question and delete its images."""
        self.stop(request)
        for upload in self._uploads.pop(request.session_hash or "", ()):
            upload.unlink(missing_ok=True)

    def command(self, given: Message | None, conversation: Conversation, *settings: Any) -> str:
        """The command for the question in the box, or else for the last one that was answered."""
        last = conversation.exchanges[-1].question if conversation.exchanges else IMAGE_ALONE
        question = (given or {}).get("text", "").strip() or last
        chosen = _chosen(*settings)
        return chosen.command(question, self._sessions.answered_by)


_DEFAULT_VALUES: Final = (1, 128, 0.0, "high")
BEAMS_NOTE: Final = "With beams the answer appears when it is final, and no token is drawn."
SAMPLING_NOTE: Final = "Above 0 tokens are drawn, equally for equal questions, and no beams are searched."
GREEDY_NOTE: Final = "At temperature 0 with 1 beam the likeliest token is taken, and the answer streams."


def _talk(examples: Sequence[tuple[str, Path]]) -> tuple[Any, Any, Any]:
    """The chat, the box for questions, and the button for a new conversation."""
    chat = gradio.Chatbot(
        label="Captionmill",
        height="62vh",
        # Plain text, as a run would write it, so that a browser loads nothing for it.
        render_markdown=False,
        buttons=["copy"],
        placeholder="Give an image and ask about it.",
        elem_id="chat",
    )
    box = gradio.MultimodalTextbox(
        show_label=False,
        placeholder="Ask about an image; Enter sends",
        file_types=["image", *sorted(HEIC_SUFFIXES)],
        file_count="single",
        sources=["upload"],
        max_plain_text_length=100_000,
        elem_id="box",
    )
    new = gradio.Button("New conversation", size="sm", elem_id="new")
    if examples:
        gradio.Examples(
            [{"text": text, "files": [str(path)]} for text, path in examples],
            inputs=box,
            label="Examples",
            api_visibility="private",
        )
    return chat, box, new


def _settings() -> tuple[list[Any], Any]:
    """The settings, in the order of Chosen's fields, and a note on them."""
    beams, max_new_tokens, temperature, detail = _DEFAULT_VALUES
    with gradio.Accordion("Settings", open=True):
        settings = [
            gradio.Slider(1, MOST_BEAMS, beams, step=1, label="Beams", elem_id="beams"),
            gradio.Number(max_new_tokens, label="Max tokens", minimum=1, precision=0, elem_id="max-tokens"),
            gradio.Slider(
                0, MOST_TEMPERATURE, temperature, step=0.1, label="Temperature", elem_id="temperature"
            ),
            gradio.Dropdown(
                list(DETAILS), value=detail, label="Detail of the image", filterable=False, elem_id="detail"
            ),
        ]
        note = gradio.Markdown(GREEDY_NOTE, elem_id="note")
    return settings, note


def _box(*, busy: bool) -> Any:
    """The box: while a question is under way it is empty, and has Stop in place of Send."""
    if busy:
        return gradio.MultimodalTextbox(value={"text": "", "files": []}, submit_btn=False, stop_btn=True)
    return gradio.MultimodalTextbox(submit_btn=True, stop_btn=False)


def _beams_chosen(beams: float) -> tuple[Any, str]:
    if beams > 1:
        return gradio.Slider(value=0, interactive=False), BEAMS_NOTE
    return gradio.Slider(interactive=True), GREEDY_NOTE


def _temperature_chosen(temperature: float) -> tuple[Any, str]:
    if temperature > 0:
        return gradio.Slider(value=1, interactive=False), SAMPLING_NOTE
    return gradio.Slider(interactive=True), GREEDY_NOTE


def _chosen(beams: float, max_new_tokens: float, temperature: float, detail: Detail) -> Chosen:
    """Settings from the values that a browser sends."""
    return Chosen(int(beams), int(max_new_tokens), float(temperature), detail)


def _said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _waiting_text(chosen: Chosen) -> str:
    if chosen.beams > 1:
        return f"Searching with {chosen.beams} beams; the answer appears when it is final…"
    return "…"


def _ended(progress: Progress) -> list[Message]:
    """The answer's text, and how the question ended."""
    text = [_said(progress.text)] if progress.text else []
    if progress.trouble is not None:
        return [*text, _said(f"No answer: {progress.trouble}")]
    if isinstance(progress.outcome, Failure):
        return [*text, _said(f"No answer: {progress.outcome.message}")]
    if not text and not progress.stopped:
        text = [_said("(The answer has no text.)")]
    return [*text, _said(f"[{progress.note()}]")]


def _after(before: Conversation, about: Conversation, question: str, progress: Progress) -> Conversation:
    """The conversation for the next question."""
    outcome = progress.outcome
    if isinstance(outcome, Answer):
        return about.answered(question, outcome.text)
    if isinstance(outcome, Failure) and outcome.code in IMAGE_REFUSED:
        return before if about.image != before.image else Conversation()
    return about
