"""What --model finds, converts or refuses, through the real command, in a cache of the test's own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from transformers import CLIPVisionConfig

from captionmill.kept_models import MODEL
from captionmill.model_cache import wanted
from contract.installing import install_line
from contract.model_folder import LANGUAGE_XML, MANIFEST_JSON
from contract.store import WORKERS_KEY
from model_prep.options import ConversionOptions
from tests.support.hub import COMMIT, HUB_ID, cached, served
from tests.support.model_caches import CONVERTED, DEMO_CHECKPOINT, DEMO_FOLDER, IMAGE, Cache, refused
from tests.support.processes import spawn, wait_until
from tests.support.without_torch import hide_torch

NOISE = ("Loading weights", "loss_type", "WARNING", "Warning", "nncf", "Traceback")
"""What libraries print while a checkpoint is converted."""


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", {})


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cache, subprocess.CompletedProcess[str], Path]:
    """The demo's checkpoint given to `run` for the first time: the cache, what was said, the run's folder."""
    cache, out = Cache(tmp_path_factory.mktemp("cache"), {}), tmp_path_factory.mktemp("run") / "answers"
    ran = cache.run("run", IMAGE.parent, "--model", DEMO_CHECKPOINT, "--out", out)
    return cache, ran, out


def test_a_checkpoint_is_converted_before_it_answers(
    first: tuple[Cache, subprocess.CompletedProcess[str], Path],
) -> None:
    cache, ran, out = first
    assert ran.returncode == 0, ran.stderr
    assert len((out / "answers.jsonl").read_text().splitlines()) == 24
    kept = cache.only()
    assert kept["state"] == "ready"
    assert kept["source"] == str(DEMO_CHECKPOINT)
    lines = [line for line in ran.stderr.splitlines() if line]
    assert f"{DEMO_CHECKPOINT} {CONVERTED} {kept['name']}." in lines
    assert "exporting language model …" in lines
    assert re.fullmatch(
        rf"Kept as {kept['name']}: \d+\.\d MB, fp16; .*of tokens as in the checkpoint.", lines[-1]
    )
    assert [word for word in NOISE if word in ran.stderr + ran.stdout] == []
    assert "Loading weights" in (cache.models / kept["name"] / "convert.log").read_text()


def test_it_is_found_again_and_needs_no_torch_then(
    first: tuple[Cache, subprocess.CompletedProcess[str], Path], tmp_path: Path
) -> None:
    cache, _, _ = first
    for model in (DEMO_CHECKPOINT, cache.only()["name"]):
        again = Cache(cache.home, hide_torch(tmp_path / Path(model).name))
        ran = again.run("ask", IMAGE, "Describe the image.", "--model", model)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.strip()
        assert CONVERTED not in ran.stderr
    assert len(cache.kept()) == 1
    assert cache.only()["last_used"] is not None


def test_a_worker_takes_a_checkpoint(
    first: tuple[Cache, subprocess.CompletedProcess[str], Path],
    redis_url: str,
    connection: redis.Redis,
    tmp_path: Path,
) -> None:
    cache, _, _ = first
    process = spawn(
        [
            sys.executable,
            "-m",
            "captionmill",
            "worker",
            "--model",
            str(DEMO_CHECKPOINT),
            "--redis",
            redis_url,
        ],
        tmp_path / "worker.log",
        {"XDG_CACHE_HOME": str(cache.home), "CAPTIONMILL_PRECISION": "exact"},
    )
    try:

        def ready() -> bool:
            assert process.poll() is None, (tmp_path / "worker.log").read_text()
            return bool(connection.hlen(WORKERS_KEY))

        wait_until(ready)
        kept = cache.only()
        ran = cache.run("ask", IMAGE, "Describe the image.", "--redis", redis_url, "--json")
        assert json.loads(ran.stdout)["text"]
        (worker,) = (json.loads(told) for told in connection.hvals(WORKERS_KEY))
        assert worker["model"].startswith(kept["model"])
        refused(cache.run("models", "remove", "--yes", kept["name"]), kept["name"], "is used by a command")
    finally:
        process.terminate()
        process.wait()
    assert cache.only()["state"] == "ready"


def test_a_changed_checkpoint_is_another_model(tiny_checkpoint: Path, cache: Cache, tmp_path: Path) -> None:
    source = tmp_path / "a model (2)"
    source.mkdir()
    for path in tiny_checkpoint.iterdir():
        os.link(path, source / path.name)
    cache.convert(source)
    one = cache.only()
    assert one["model"].startswith("a-model-2-fp16-")
    (source / "generation_config.json").unlink()
    (source / "generation_config.json").write_text("{}")
    kept, _ = wanted(str(source), ConversionOptions())
    assert kept.name.startswith("a-model-2-balanced-")
    assert kept.name != one["name"]
    (cache.models / one["name"] / MODEL / MANIFEST_JSON).unlink()
    refused(cache.run("ask", IMAGE, "What?", "--model", one["name"]), "is damaged", "has changed since")


def test_what_a_checkpoint_does_not_say_makes_another_model(tmp_path: Path) -> None:
    template, tower = tmp_path / "own.jinja", tmp_path / "tower"
    template.write_text("one")
    tower.mkdir()
    asked = [
        ConversionOptions(),
        ConversionOptions(chat_template="vicuna_v1"),
        ConversionOptions(chat_template=str(template)),
        ConversionOptions(vision_tower=str(tower)),
        ConversionOptions(allow_untested=True),
        ConversionOptions(verify="full"),
    ]
    names = {wanted(HUB_ID, options)[0].name for options in asked}
    assert len(names) == len(asked)
    template.write_text("another")
    (tower / "config.json").write_text("{}")
    changed = {wanted(HUB_ID, options)[0].name for options in asked[2:4]}
    assert not changed & names


def test_a_kept_model_is_made_with_the_template_it_was_asked_with(
    tiny_checkpoint: Path, cache: Cache, tmp_path: Path
) -> None:
    source = tmp_path / "bare"
    source.mkdir()
    for path in tiny_checkpoint.iterdir():
        if path.name != "chat_template.jinja":
            os.link(path, source / path.name)
    refused(cache.run("ask", IMAGE, "What?", "--model", source), "--chat-template")
    cache.convert(source, "--chat-template", "vicuna_v1", "--verify", "none")
    kept = cache.only()
    assert kept["state"] == "ready"
    folder = cache.models / kept["name"] / MODEL
    assert "ASSISTANT:" in (folder / "chat_template.jinja").read_text()
    assert "not verified" in cache.run("models", "show", kept["name"]).stdout


def test_a_hub_id_is_found_again_without_network(tiny_checkpoint: Path, tmp_path: Path) -> None:
    hub = cached(tiny_checkpoint, tmp_path / "hub")
    cache = Cache(tmp_path / "cache", hub)
    cache.convert(HUB_ID)
    kept = cache.only()
    assert (kept["source"], kept["revision"], kept["commit"]) == (HUB_ID, None, COMMIT)
    assert kept["name"].startswith("somebody--tiny-llava-balanced-")
    names = {wanted(HUB_ID, ConversionOptions(revision=revision))[0].name for revision in (None, "v2")}
    assert len(names) == 2
    assert kept["name"] in names
    gone = Cache(cache.home, hub | {"HF_HOME": str(tmp_path / "nothing")})
    assert CONVERTED not in gone.convert(HUB_ID).stderr


def test_of_a_hub_id_weights_come_last_and_visibly(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with served(tiny_checkpoint, tmp_path / "hub") as (variables, sent):
        ran = Cache(tmp_path / "cache", variables).convert(HUB_ID, "--json")
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    size = (tiny_checkpoint / "model.safetensors").stat().st_size
    assert {"event": "download", "done_bytes": size, "total_bytes": size} in told
    compared = [one["done"] / one["total"] for one in told if one["event"] == "compared"]
    assert compared == sorted(set(compared))
    assert compared[-1] == 1
    assert sent[-1] == "model.safetensors"
    assert sent.count("config.json") == 1
    assert told[-1]["commit"] == COMMIT


def test_of_another_architecture_on_the_hub_no_weights_are_fetched(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    source = unsupported(tmp_path, tiny_checkpoint)
    with served(source, tmp_path / "hub") as (variables, sent):
        cache = Cache(tmp_path / "cache", variables)
        ran = cache.run("run", IMAGE.parent, "--model", HUB_ID, "--out", tmp_path / "out")
    refused(ran, "'clip_vision_model' is not supported")
    assert "config.json" in sent
    assert "model.safetensors" not in sent
    assert not (tmp_path / "out").exists()


def missing(tmp_path: Path, _: Path) -> Path:
    return tmp_path / "no" / "such"


def misspelt(_: Path, __: Path) -> Path:
    return Path("chekpoint")


def empty(tmp_path: Path, _: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def a_file(tmp_path: Path, _: Path) -> Path:
    (tmp_path / "file.bin").touch()
    return tmp_path / "file.bin"


def without_weights(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    (tmp_path / "bare").mkdir()
    os.link(tiny_checkpoint / "config.json", tmp_path / "bare" / "config.json")
    return tmp_path / "bare"


def unsupported(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    CLIPVisionConfig().save_pretrained(tmp_path / "clip")
    os.link(tiny_checkpoint / "model.safetensors", tmp_path / "clip" / "model.safetensors")
    return tmp_path / "clip"


def without_language(tmp_path: Path, _: Path) -> Path:
    (tmp_path / "half").mkdir()
    os.link(DEMO_FOLDER / MANIFEST_JSON, tmp_path / "half" / MANIFEST_JSON)
    return tmp_path / "half"


def on_the_hub(_: Path, __: Path) -> Path:
    return Path("nobody/nothing")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (missing, ("There is no folder", "owner/name")),
        (misspelt, ("There is no folder chekpoint", "captionmill models")),
        (empty, ("no model folder", LANGUAGE_XML, "no checkpoint folder", "config.json")),
        (a_file, ("no model folder", "no checkpoint folder")),
        (without_weights, ("has no weights", "*.safetensors", "pytorch_model*.bin")),
        (
            unsupported,
            (
                "'clip_vision_model' is not supported",
                "llava, vipllava, llava_next, llava_next_video, llava_onevision",
            ),
        ),
        (without_language, ("lacks its openvino_language_model.xml",)),
        (on_the_hub, ("nobody/nothing is not a checkpoint", "the hub cannot be asked")),
    ],
)
def test_a_model_that_cannot_be_had_is_refused_before_planning(
    tiny_checkpoint: Path,
    tmp_path: Path,
    model: Callable[[Path, Path], Path],
    words: tuple[str, ...],
) -> None:
    cache = Cache(tmp_path / "cache", {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")})
    out = tmp_path / "out"
    refused(cache.run("run", IMAGE.parent, "--model", model(tmp_path, tiny_checkpoint), "--out", out), *words)
    assert not out.exists()
    assert cache.kept() == {}


def test_no_model_at_all_is_refused_before_planning(cache: Cache, tmp_path: Path) -> None:
    refused(cache.run("run", IMAGE.parent, "--out", tmp_path / "out"), "Which model shall answer?", "--model")
    assert not (tmp_path / "out").exists()


def test_retry_refuses_a_model_before_the_ledger_is_changed(
    cache: Cache, images: Path, tmp_path: Path
) -> None:
    (images / "broken.png").write_bytes(b"no image")
    out = tmp_path / "out"
    assert cache.run("run", images, "--model", DEMO_FOLDER, "--out", out).returncode == 1
    before = cache.run("status", out, "--json").stdout
    assert json.loads(before)["failed"] == 1
    refused(cache.run("retry", out, "--model", "chekpoint"), "There is no folder chekpoint")
    assert cache.run("status", out, "--json").stdout == before


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("captionmill", ("run", IMAGE.parent, "--model", DEMO_CHECKPOINT, "--out", "{out}")),
        ("captionmill", ("ask", IMAGE, "What?", "--model", DEMO_CHECKPOINT)),
        ("captionmill", ("estimate", IMAGE.parent, "--model", DEMO_CHECKPOINT)),
        ("captionmill", ("worker", "--model", DEMO_CHECKPOINT)),
        ("captionmill", ("convert", DEMO_CHECKPOINT)),
        ("captionmill", ("convert", DEMO_CHECKPOINT, "--out", "{out}")),
        ("captionmill", ("models", "verify", DEMO_FOLDER, "--checkpoint", DEMO_CHECKPOINT)),
        ("model_prep", ("convert", DEMO_CHECKPOINT, "--out", "{out}")),
        ("model_prep", ("verify", DEMO_FOLDER, "--checkpoint", DEMO_CHECKPOINT)),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]} {value[1]}"[-30:],
)
def test_without_torch_one_sentence_says_what_to_install(
    tmp_path: Path, module: str, arguments: tuple[str | Path, ...]
) -> None:
    cache, out = Cache(tmp_path / "cache", hide_torch(tmp_path / "hidden")), tmp_path / "out"
    ran = cache.run(*(out if part == "{out}" else part for part in arguments), module=module)
    refused(ran, "needs torch and nncf", install_line("prep"))
    assert not out.exists()
    assert cache.kept() == {}
