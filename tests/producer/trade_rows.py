"""Rows as people of this trade write them, each anew, with what its author wanted and where that was told.

PLACE stands for the folder with a.png and b.png, both pictures; BASE64 for the bytes of a.png in base64;
"1E999" for the number.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

Form = Literal["jsonl", "csv", "nested", "turns", "openai"]
"""Which of the sources of one run has the row; nested and turns are Parquet files."""
DESCRIBE: Final = "Describe the image."
IMAGE: Final = {"type": "image"}
BOTH: Final = ("a.png", "b.png")


@dataclass(frozen=True)
class Answered:
    """The row is asked, with its picture."""

    prompts: tuple[Any, ...] = (DESCRIBE,)
    """As asked; of turns the texts and images of each."""
    choices: tuple[str, ...] = ()
    columns: dict[str, Any] = field(default_factory=dict)
    """Some of those that the outputs carry."""
    id: str | None = None
    is_low: bool = False
    """Whether the picture is looked at once, with few tokens."""
    images: tuple[str, ...] = ()
    """Of several pictures all, in their order."""


@dataclass(frozen=True)
class Failed:
    """The row fails, and says so."""

    code: str
    sentence: str


@dataclass(frozen=True)
class Case:
    """One row."""

    source: str
    """Project and number of the public report, or `issue` for this project's own."""
    wanted: str
    given: dict[str, Any]
    verdict: Answered | Failed
    form: Form = "jsonl"


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def human(value: str) -> dict[str, Any]:
    return {"from": "human", "value": value}


def gpt(value: str) -> dict[str, Any]:
    return {"from": "gpt", "value": value}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def turns(*contents: Any) -> tuple[Any, ...]:
    """A prompt of turns whose first is the user's."""
    roles = ("user", "assistant")
    return ([{"role": roles[number % 2], "content": one} for number, one in enumerate(contents)],)


def body(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An OpenAI batch request about a.png, with further fields."""
    content = parts or ({"type": "image_url", "image_url": {"url": "PLACE/a.png"}}, text(DESCRIBE))
    return {"model": "m", "messages": [user(list(content))], **more}


ONE_IMAGE: Final = turns([IMAGE, text(DESCRIBE)])

CASES: Final = (
    # A picture that is not found is no question without one.
    Case(
        "issue", "a null picture is a failure of its row", {"image": None, "question": DESCRIBE},
        Failed("no_image", '"image" is empty'),
    ),
    Case(
        "issue", "a picture under a name of its own", {"picture": "PLACE/a.png", "question": DESCRIBE},
        Failed("no_image", '"picture" looks like one; --image-column picture reads it'),
    ),
    Case(
        "issue", "a URL under a name of its own", {"photo": "https://example.org/1", "question": DESCRIBE},
        Failed("no_image", '"photo" looks like one'),
    ),
    Case(
        "issue", "a URL under a name that says nothing",
        {"link": "https://example.org/1", "question": DESCRIBE},
        Failed("no_image", '"link" looks like one'),
    ),
    Case(
        "issue", "bytes under a name that says nothing", {"thumb": "BASE64", "question": DESCRIBE},
        Failed("no_image", '"thumb" looks like one'),
    ),
    Case(
        "issue", "a picture within an object", {"meta": {"image": "x/1"}, "question": DESCRIBE},
        Failed("no_image", '"meta.image" looks like one; --text-only asks'),
    ),
    Case(
        "issue", "a picture within a list", {"pages": [7, ["x/1.png"]], "question": DESCRIBE},
        Failed("no_image", '"pages" looks like one'),
    ),
    Case(
        "issue", "a mark and no picture", {"messages": [user("<image>What is it?")]},
        Failed("no_image", "its text places one with <image>"),
    ),
    Case(
        "issue", "a second mark is refused, not dropped",
        {"image": "PLACE/a.png", "question": "<image> or <image>?"},
        Failed("invalid_job", "its text places 2"),
    ),
    Case(
        "haotian-liu/LLaVA#546", "entries of the mix that are pure text are told from those without picture",
        {"id": "wgByO4Y_0", "model": "", "conversations": [human("Say hi."), gpt("Hi.")]},
        Failed("no_image", "other rows of the run have one"),
    ),
    Case(
        "2U1/Qwen-VL-Series-Finetune#109", "an entry without picture whose id looks like a COCO name",
        {"id": "000000033471", "conversations": [human("Identify the odd one out."), gpt("Telegram")]},
        Failed("no_image", "--text-only"),
    ),
    Case(
        "DAMO-NLP-SG/VideoLLaMA2#84", "videos and pictures in one file: the video is not answered blindly",
        {"id": "v1", "video": "videos/x.mp4", "conversations": [human("<video>\nWhat happens?"), gpt("x")]},
        Failed("invalid_job", "The row is about a video"),
    ),
    Case(
        "issue", "a blank cell in the picture's column", {"image": "", "question": DESCRIBE},
        Failed("no_image", '"image" is empty'), "csv",
    ),
    Case(
        "huggingface/datasets#7632", "a picture that is null in Parquet does not end the run",
        {"images": None}, Failed("no_image", '"images" is empty'), "nested",
    ),
    Case(
        "issue", "VQAv2's questions name their pictures by number alone",
        {"question_id": 262148000, "image_id": 262148, "question": "Where is he looking?"},
        Failed("no_image", '"image_id" looks like one'),
    ),
    # Conversations in the forms of other tools.
    Case(
        "issue", "LLaMA-Factory's and ms-swift's form",
        {"messages": [user("<image>Describe the image."), assistant("A cat.")], "images": ["PLACE/a.png"]},
        Answered(ONE_IMAGE),
    ),
    Case(
        "hiyouga/LlamaFactory#5883", "LLaVA's picture as a text where others have a list",
        {"image": "PLACE/a.png", "conversations": [human("<image>\nDescribe the image."), gpt("A cat.")]},
        Answered(),
    ),
    Case(
        "hiyouga/LlamaFactory#7516", "ShareGPT's conversations with `images`",
        {"conversations": [human("<image>Describe the image."), gpt("A cat.")], "images": ["PLACE/a.png"]},
        Answered(),
    ),
    Case(
        "hiyouga/LlamaFactory#8440", "an answer at the end that speaks of <image> places none",
        {
            "messages": [user("<image>\nParse it."), assistant("![fig](<image>)")],
            "images": ["PLACE/a.png"],
        },
        Answered(turns([IMAGE, text("Parse it.")])),
    ),
    Case(
        "hiyouga/LlamaFactory#8440", "an answer in between that speaks of <image> is told",
        {
            "messages": [user("<image>\nParse it."), assistant("![fig](<image>)"), user("Shorter?")],
            "images": ["PLACE/a.png"],
        },
        Failed("question_refused", "assistant turn contains '<image>'"),
    ),
    Case(
        "modelscope/ms-swift#5247", "one picture and a mark in each turn is said, not guessed",
        {
            "messages": [user("<image>What?"), assistant("An elephant."), user("<image>Which colour?")],
            "images": ["PLACE/a.png"],
        },
        Failed("invalid_job", "its text places 2"),
    ),
    Case(
        "QwenLM/Qwen3-VL#1117", "two pictures under `images` with LLaVA's turns",
        {"images": ["PLACE/a.png", "PLACE/b.png"], "conversations": [human("<image>\n<image>\nWhich?")]},
        Answered(("Which?",), images=BOTH),
    ),
    Case(
        "issue", "LLaVA's turns with two pictures between their texts, of which a later turn speaks again", {
            "image": ["PLACE/a.png", "PLACE/b.png"],
            "conversations": [human("Here <image> and there <image>: which?"), gpt("x"), human("And why?")],
        },
        Answered(
            (*turns([text("Here "), IMAGE, text(" and there "), IMAGE, text(": which?")]), "And why?"),
            images=BOTH,
        ),
    ),
    Case(
        "zjysteven/lmms-finetune#69", "Qwen's parts, the picture named in one",
        {"messages": [user([{"type": "image", "image": "PLACE/a.png"}, text(DESCRIBE)])]},
        Answered(ONE_IMAGE),
    ),
    Case(
        "modelscope/ms-swift#99", "Qwen-VL's own form, the picture named within the text",
        {
            "conversations": [
                {"from": "user", "value": "Picture 1: <img>PLACE/a.png</img>\nDescribe the image."},
                {"from": "assistant", "value": "A dog."},
            ]
        },
        Answered(),
    ),
    Case(
        "OpenBMB/MiniCPM-V#522", "pictures by the marks that stand for them",
        {
            "image": {"<image_00>": "PLACE/a.png"},
            "conversations": [user("<image_00>\nDescribe the image."), assistant("x")],
        },
        Answered(),
    ),
    Case(
        "OpenBMB/MiniCPM-V#233", "several pictures by marks", {
            "image": {"image1": "PLACE/a.png", "image2": "PLACE/b.png"},
            "conversations": [user("<image1>\nHow many?"), assistant("3"), user("<image2>\nWhich?")],
        },
        Failed("invalid_job", "places images in several of its turns"),
    ),
    Case(
        "OpenGVLab/InternVL#429", "marks with numbers",
        {"image": "PLACE/a.png", "question": "In <image1>, what is there?"},
        Answered(turns([text("In "), IMAGE, text(", what is there?")])),
    ),
    Case(
        "InternLM/xtuner#771", "a picture is shown although no mark places it",
        {"image": "PLACE/a.png", "conversations": [human("Describe the image."), gpt("x")]}, Answered(),
    ),
    Case(
        "modelscope/ms-swift#606", "turns without a mark, and a picture",
        {"images": ["PLACE/a.png"], "messages": [user(DESCRIBE)]}, Answered(ONE_IMAGE),
    ),
    Case(
        "NVIDIA-NeMo/Automodel#3143", "the system turn of a ShareGPT row is not dropped",
        {
            "image": "PLACE/a.png",
            "conversations": [{"from": "system", "value": "Be brief."}, human("<image>\nWhat?"), gpt("x")],
        },
        Answered(([{"role": "system", "content": "Be brief."}, user([IMAGE, text("What?")])],)),
    ),
    Case(
        "QwenLM/Qwen3#1314", "a column `system` beside the turns",
        {"images": ["PLACE/a.png"], "system": "Be brief.", "messages": [user("<image>What?")]},
        Answered(([{"role": "system", "content": "Be brief."}, user([IMAGE, text("What?")])],)),
    ),
    Case(
        "issue", "Anthropic's parts", {
            "messages": [
                user([
                    {"type": "image",
                     "source": {"type": "base64", "media_type": "image/png", "data": "BASE64"}},
                    text(DESCRIBE),
                ])
            ]
        },
        Answered(ONE_IMAGE),
    ),
    Case(
        "posit-dev/chatlas#218", "a part with a picture and its detail between texts",
        {"messages": [user([text("Look."), {"type": "image", "image": "PLACE/a.png", "detail": "low"},
                            text("What?")], id="9KN98")]},
        Answered(turns([text("Look."), IMAGE, text("What?")]), is_low=True),
    ),
    Case(
        "modelscope/ms-swift#10125", "parts that Parquet filled with each other's null fields",
        {"messages": [user([{"type": "image", "image": "PLACE/a.png", "text": None},
                            {"type": "text", "image": None, "text": DESCRIBE}])]},
        Answered(ONE_IMAGE), "turns",
    ),
    Case(
        "issue", "null fields in parts of JSONL",
        {"messages": [user([{"type": "image_url", "image": None, "text": None,
                             "image_url": {"url": "PLACE/a.png"}},
                            {"type": "text", "image": None, "text": DESCRIBE}])]},
        Answered(ONE_IMAGE),
    ),
    Case(
        "HumanSignal/label-studio#2291", "a task whose file has a plus sign in its name",
        {"id": 77, "data": {"image": "/data/local-files/?d=c%2B%23.png", "question": DESCRIBE},
         "annotations": []},
        Answered(id="77"),
    ),
    Case(
        "HumanSignal/label-studio-converter#150", "a task without anything but data",
        {"data": {"image": "/data/local-files/?d=c%2B%23.png", "question": DESCRIBE}}, Answered(),
    ),
    Case(
        "issue", "signs in a name, for Label Studio",
        {"image": "c+#.png", "question": DESCRIBE, "id": "signs"}, Answered(id="signs"),
    ),
    # Pictures as values.
    Case(
        "huggingface/trl#5132", "`image` with a list of one",
        {"image": ["PLACE/a.png"], "question": DESCRIBE}, Answered(),
    ),
    Case(
        "huggingface/trl#5132", "`images` beside an `image` that is null",
        {"image": None, "images": ["PLACE/a.png"], "question": DESCRIBE}, Answered(),
    ),
    Case(
        "unslothai/unsloth#11031", "`image` with a list of two is not answered about the first",
        {"image": ["PLACE/a.png", "PLACE/b.png"], "question": DESCRIBE}, Answered(images=BOTH),
    ),
    Case(
        "issue", "two pictures, and turns that place none",
        {"images": ["PLACE/a.png", "PLACE/b.png"], "messages": [user(DESCRIBE)]},
        Answered(turns([IMAGE, IMAGE, text(DESCRIBE)]), images=BOTH),
    ),
    Case(
        "issue", "two pictures, and a question that places three",
        {"images": ["PLACE/a.png", "PLACE/b.png"], "question": "<image> or <image> or <image>?"},
        Failed("invalid_job", "The row has 2 images, and its text places 3"),
    ),
    Case(
        "issue", "two pictures, and one of the questions places one",
        {"images": ["PLACE/a.png", "PLACE/b.png"], "questions": ["<image><image>Same?", "What is <image>?"]},
        Failed("invalid_job", "The row has 2 images, and its text places 1"),
    ),
    Case(
        "issue", "two pictures in two user turns",
        {"images": ["PLACE/a.png", "PLACE/b.png"],
         "messages": [user("<image>What?"), assistant("A dog."), user("<image>And this?")]},
        Failed("invalid_job", "all of them stand in the first user turn"),
    ),
    Case(
        "issue", "the order of the turns counts, not that of the column",
        {"images": ["PLACE/b.png", "PLACE/a.png"],
         "messages": [user([{"type": "image", "image": "PLACE/a.png"}, text("or"),
                            {"type": "image", "image": "PLACE/b.png"}, text("?")])]},
        Answered(turns([IMAGE, text("or"), IMAGE, text("?")]), images=BOTH),
    ),
    Case(
        "issue", "a place without a name is that of the picture in the column",
        {"images": ["PLACE/b.png"],
         "messages": [user([{"type": "image", "image": "PLACE/a.png"}, {"type": "image"}, text("Same?")])]},
        Answered(turns([IMAGE, IMAGE, text("Same?")]), images=BOTH),
    ),
    Case(
        "issue", "marks and pictures whose numbers are in order",
        {"images": {"<image 2>": "PLACE/b.png", "<image 1>": "PLACE/a.png"},
         "question": "Is <image 1> as <image 2>?"},
        Answered(turns([text("Is "), IMAGE, text(" as "), IMAGE, text("?")]), images=BOTH),
    ),
    Case(
        "issue", "marks whose numbers turn the order round",
        {"images": ["PLACE/a.png", "PLACE/b.png"], "question": "Is <image_2> as <image_1>?"},
        Failed("invalid_job", 'that do not count up by one: "2", "1"'),
    ),
    Case(
        "issue", "a mark that stands twice, and another picture",
        {"images": ["PLACE/a.png", "PLACE/b.png"], "question": "Is <image 1> all of <image 1>?"},
        Failed("invalid_job", 'that do not count up by one: "1", "1"'),
    ),
    Case(
        "issue", "a picture in a column and another one in a part",
        {"image": "PLACE/b.png",
         "messages": [user([{"type": "image", "image": "PLACE/a.png"}, text(DESCRIBE)])]},
        Failed("invalid_job", "The row has 2 images, and its text places 1"),
    ),
    Case(
        "issue", "pictures of which each asks for another detail",
        {"messages": [user([{"type": "image", "image": "PLACE/a.png", "detail": "low"},
                            {"type": "image", "image": "PLACE/b.png"}, text("Same?")])]},
        Failed("invalid_job", 'The "detail" of the row\'s images differs'),
    ),
    Case(
        "issue", "a list of names in a cell",
        {"image": "['PLACE/a.png', 'PLACE/b.png']", "question": DESCRIBE}, Answered(images=BOTH), "csv",
    ),
    Case(
        "issue", "paths in a column for pictures",
        {"images": [{"bytes": None, "path": "PLACE/a.png"}, {"bytes": None, "path": "PLACE/b.png"}]},
        Answered(images=BOTH), "nested",
    ),
    Case(
        "ai-dynamo/aiperf#903", "a list of one {bytes, path}", {"images": [{"bytes": "BYTES", "path": None}]},
        Answered(), "nested",
    ),
    Case(
        "issue", "NaN for what is missing, in Parquet",
        {"images": [{"bytes": "BYTES", "path": None}], "score": float("nan")},
        Answered(columns={"score": None}), "nested",
    ),
    Case(
        "huggingface/dataset-viewer#628", "a struct whose bytes are null and whose path is not",
        {"images": [{"bytes": None, "path": "PLACE/a.png"}]}, Answered(), "nested",
    ),
    Case(
        "issue", "two pictures in a row of Parquet",
        {"images": [{"bytes": "BYTES", "path": None}, {"bytes": "BYTES", "path": None}]},
        Failed("invalid_job", "each is named by a path or a URL, and 2 of this row's 2"), "nested",
    ),
    Case(
        "issue", "an object that has the picture under `src`, as the dataset viewer's rows",
        {"image": {"src": "file://PLACE/a.png", "height": 24, "width": 24}, "question": DESCRIBE}, Answered(),
    ),
    Case("modelscope/ms-swift#5273", "bare base64", {"images": ["BASE64"], "question": DESCRIBE}, Answered()),
    Case(
        "modelscope/ms-swift#8384", "two pictures, one as a data: URL",
        {"messages": [user("<image><image>Differences?")],
         "images": ["data:image/png;base64,BASE64", "PLACE/b.png"]},
        Failed("invalid_job", "each is named by a path or a URL, and 1 of this row's 2"),
    ),
    Case("OFA-Sys/OFA#91", "base64 in a cell", {"image": "BASE64", "question": DESCRIBE}, Answered(), "csv"),
    Case(
        "pandas-dev/pandas#9712", "base64 as Python prints bytes",
        {"image": "b'BASE64'", "question": DESCRIBE}, Answered(), "csv",
    ),
    Case(
        "eto-ai/rikai#687", "raw bytes as Python prints them", {"image": "PRINTED", "question": DESCRIBE},
        Answered(), "csv",
    ),
    Case(
        "runpod-workers/worker-comfyui#126", "base64 without padding",
        {"image": "UNPADDED", "question": DESCRIBE}, Answered(),
    ),
    Case(
        "runpod-workers/worker-comfyui#126", "base64 over lines", {"image": "FOLDED", "question": DESCRIBE},
        Answered(),
    ),
    Case(
        "issue", "base64 over lines whose ends became blanks", {"image": "ONE_LINE", "question": DESCRIBE},
        Answered(),
    ),
    Case(
        "runpod-workers/worker-comfyui#126", "base64 whose plus signs became blanks",
        {"image": "BLANKS", "question": DESCRIBE}, Answered(),
    ),
    Case(
        "issue", "what names no file, of 9000 characters", {"image": "LONG", "question": DESCRIBE},
        Failed("invalid_job", "is too long for the name of a file"),
    ),
    Case(
        "runpod-workers/worker-comfyui#126", "base64 within quotation marks",
        {"image": '"BASE64"', "question": DESCRIBE}, Answered(),
    ),
    # Choices, ids, numbers.
    Case(
        "issue", "README's row of choices with run-wide beams",
        {"image": "PLACE/b.png", "question": "Is there a star?", "choices": ["yes", "no"]},
        Answered(("Is there a star?",), ("yes", "no")),
    ),
    Case(
        "issue", "three megabytes are counted before they are tokenized",
        {"image": "PLACE/a.png", "question": "MEGABYTES"},
        Failed("question_too_long", "A text of the question has more than 68181 tokens"),
    ),
    Case(
        "issue", "no choices", {"image": "PLACE/a.png", "question": DESCRIBE, "choices": []}, Answered(),
    ),
    Case(
        "issue", "a null question is none", {"image": "PLACE/a.png", "question": None},
        Answered(("Which shape?",)),
    ),
    Case(
        "ansys/pydynamicreporting#358", "a list as Python prints it",
        {"image": "PLACE/a.png", "question": "Q?", "choices": "['red', 'blue']"},
        Answered(("Q?",), ("red", "blue")), "csv",
    ),
    Case(
        "issue", "a bar at the end", {"image": "PLACE/a.png", "question": "Q?", "choices": "A|B|"},
        Answered(("Q?",), ("A", "B")), "csv",
    ),
    Case(
        "nums-project/nums#524", "a list as NumPy prints it",
        {"image": "PLACE/a.png", "question": "Q?", "choices": "['it''s' \"isn't\"\n 'c']".replace("''", "")},
        Answered(("Q?",), ("its", "isn't", "c")), "csv",
    ),
    Case(
        "pandas-dev/pandas#28335", "an id that became a float",
        {"image": "PLACE/a.png", "question": DESCRIBE, "id": 123456.0}, Answered(id="123456"),
    ),
    Case(
        "issue", "a null id", {"image": "PLACE/a.png", "question": DESCRIBE, "id": None}, Answered(),
    ),
    Case(
        "langwatch/langwatch#1558", "NaN for what is missing",
        {"image": "PLACE/a.png", "question": DESCRIBE, "score": float("nan"), "top": float("inf")},
        Answered(columns={"score": None, "top": None}),
    ),
    Case(
        "issue", "a number beyond all floats",
        {"image": "PLACE/a.png", "question": DESCRIBE, "score": "1E999"}, Answered(columns={"score": None}),
    ),
    Case(
        "issue", "ids of COCO and VQA, as a table makes them", {
            "image": "PLACE/a.png", "question": DESCRIBE, "id": "numbers", "image_id": "000000391895",
            "question_id": "12.0",
        },
        Answered(columns={"image_id": "000000391895", "question_id": "12.0"}, id="numbers"),
    ),
    # Columns named like parameters.
    Case(
        "issue", "DiffusionDB's columns", {
            "image": "PLACE/a.png", "question": DESCRIBE, "seed": 12, "temperature": 36.6, "cfg": 7.0,
            "detail": "a very detailed oil painting",
        },
        Answered(columns={"seed": 12, "temperature": 36.6, "detail": "a very detailed oil painting"}),
    ),
    Case(
        "issue", "a column that decides", {"image": "PLACE/a.png", "question": DESCRIBE, "max_new_tokens": 1},
        Answered(columns={"max_new_tokens": 1}),
    ),
    Case(
        "bojieli/ai-agent-book#360", "a whole number as a spreadsheet writes it",
        {"image": "PLACE/a.png", "question": DESCRIBE, "seed": "10.0"},
        Answered(columns={"seed": "10.0"}), "csv",
    ),
    # Batch requests.
    Case(
        "vllm-project/vllm#18890", "bare base64 as the URL of a part",
        body({"type": "image_url", "image_url": {"url": "BASE64"}}, text(DESCRIBE)),
        Answered(ONE_IMAGE), "openai",
    ),
    Case(
        "issue", "neutral fields, and a speaker's name",
        body(
            messages=[user([{"type": "image_url", "image_url": {"url": "PLACE/a.png"}}, text(DESCRIBE)],
                           name="ann")],
            ignore_eos=False, echo=False, user="me", stop_token_ids=[], tool_choice="auto",
        ),
        Answered(ONE_IMAGE), "openai",
    ),
    Case(
        "huggingface/transformers#36896", "a temperature of 0 is greedy",
        body(temperature=0, top_p=0.5, seed=3), Answered(ONE_IMAGE), "openai",
    ),
    Case(
        "vllm-project/vllm#24652", "a second picture is not ignored",
        body({"type": "image_url", "image_url": {"url": "PLACE/a.png"}},
             {"type": "image_url", "image_url": {"url": "PLACE/b.png"}}, text("Differences?")),
        Answered(turns([IMAGE, IMAGE, text("Differences?")]), images=BOTH), "openai",
    ),
    Case(
        "issue", "a field that would change the answer", body(ignore_eos=True),
        Failed("invalid_job", '"ignore_eos" is not offered'), "openai",
    ),
)  # fmt: skip
