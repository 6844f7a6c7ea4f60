"""The measurement `interop`: the same questions to worker, GenAI and optimum-intel; measures no time.

All three run our folder and optimum-intel's export.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from bench.checkpoint import name_as_published
from bench.folders import Folders, make_peers
from bench.options import DEMO, OUT, Out, progress, refuse
from contract.job import GenerationParameters, Question
from model_prep.convert import convert
from model_prep.settings import PRESETS
from worker.engine.admission import Limits
from worker.engine.loop import Engine
from worker.engine.request import Request
from worker.engine.stateful import StatefulRunner
from worker.llava.model import LlavaModel

PICTURES: Final = 6
"""Sample images that are asked about."""
QUESTION: Final = "Describe the image."
NEW_TOKENS: Final = 80
EXACT: Final = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
LIMITS: Final = Limits(kv_bytes=2**30, rows=16, step_tokens=4096)
GENAI: Final = """
import json, sys
import numpy, openvino, openvino_genai
from PIL import Image
folder, properties, question, new_tokens, *pictures = sys.argv[1:]
pipeline = openvino_genai.VLMPipeline(folder, "CPU", ATTENTION_BACKEND="SDPA", **json.loads(properties))
config = openvino_genai.GenerationConfig()
config.max_new_tokens = int(new_tokens)
for picture in pictures:
    pixels = openvino.Tensor(numpy.array(Image.open(picture).convert("RGB"))[None])
    print(json.dumps(str(pipeline.generate(question, images=[pixels], generation_config=config)).strip()))
"""
OPTIMUM: Final = """
import json, sys
from PIL import Image
from optimum.intel import OVModelForVisualCausalLM
from transformers import AutoProcessor
folder, properties, question, new_tokens, *pictures = sys.argv[1:]
model = OVModelForVisualCausalLM.from_pretrained(folder, device="CPU", ov_config=json.loads(properties))
processor = AutoProcessor.from_pretrained(folder)
turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
text = processor.apply_chat_template([turn], add_generation_prompt=True)
for picture in pictures:
    inputs = processor(images=Image.open(picture).convert("RGB"), text=text, return_tensors="pt")
    try:
        output = model.generate(**inputs, max_new_tokens=int(new_tokens), do_sample=False)[0]
    except Exception as error:
        print(json.dumps(f"breaks down: {type(error).__name__}: {error}"))
        continue
    new = output[inputs["input_ids"].shape[1]:]
    print(json.dumps(processor.tokenizer.decode(new, skip_special_tokens=True).strip()))
"""


@dataclass(frozen=True)
class Said:
    """The answer of one program about one picture, with one folder."""

    folder: str
    program: str
    picture: str
    text: str


def in_worker(folder: Path, pictures: Sequence[Path]) -> list[str]:
    """Greedy answers of the worker's pipeline in float32."""
    model = LlavaModel.load(folder, "CPU", EXACT)
    engine = Engine(StatefulRunner.load(model.language_xml, "CPU", EXACT), model.embed, LIMITS)
    parameters = GenerationParameters(max_new_tokens=NEW_TOKENS)
    texts = []
    for picture in pictures:
        with Image.open(picture) as image:
            features = model.encode_image(image.convert("RGB"))
        prompt = model.prompt(Question(id="q", messages=QUESTION), features)
        request = Request(
            inputs_embeds=prompt.inputs_embeds,
            token_ids=prompt.token_ids,
            eos_token_ids=model.eos_token_ids,
            parameters=parameters,
        )
        texts.append(model.decode(engine.submit(request).result()[0].token_ids))
    engine.close()
    return texts


def in_peer(python: Path, program: str, folder: Path, pictures: Sequence[Path]) -> list[str]:
    """For each picture, the answer of a peer's program run by its `python`, or its error."""
    command = [str(python), "-c", program, str(folder), json.dumps(EXACT), QUESTION, str(NEW_TOKENS)]
    ran = subprocess.run([*command, *map(str, pictures)], capture_output=True, text=True, check=False)
    texts: list[str] = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('"')]
    last = next(iter(reversed(ran.stderr.strip().splitlines())), f"exit code {ran.returncode}")
    return [*texts, *[f"breaks down: {last}"] * (len(pictures) - len(texts))]


def compare(own: Path, theirs: Path, python: Path, pictures: Sequence[Path]) -> Iterator[Said]:
    """The answers of every program with our folder `own` and with the export `theirs`."""
    for folder, name in ((own, "ours"), (theirs, "optimum-intel's")):
        said = {
            "worker": in_worker(folder, pictures),
            "GenAI": in_peer(python, GENAI, folder, pictures),
            "optimum-intel": in_peer(python, OPTIMUM, folder, pictures),
        }
        for program, texts in said.items():
            for picture, text in zip(pictures, texts, strict=True):
                yield Said(name, program, picture.name, text)


def main(out: Out = OUT) -> None:
    """Ask worker, GenAI and optimum-intel the same, on our folder and on optimum-intel's export."""
    folders = Folders(out.resolve(), "demo")
    if not folders.checkpoint.exists():
        shutil.copytree(DEMO / "model" / "checkpoint", folders.checkpoint)
        name_as_published(folders.checkpoint)
    own = folders.root / "ours-exact"
    if not own.exists():
        progress.log("our folder")
        settings = PRESETS["exact"].model_copy(update={"openvino_tokenizer": True})
        convert(str(folders.checkpoint), own, settings, name="demo")
    try:
        make_peers(folders, progress.log, formats=["fp16"])
    except subprocess.CalledProcessError as error:
        refuse(f"{error.cmd[0]} ended with {error.returncode}; its output is above.")
    pictures = sorted((DEMO / "images").glob("*.png"))[:PICTURES]
    print("| folder | program | picture | says |\n| --- | --- | --- | --- |")
    for said in compare(own, folders.optimum("fp16"), folders.peers_python, pictures):
        print(f"| {said.folder} | {said.program} | {said.picture} | {said.text} |", flush=True)
