"""Models that are converted and kept: how they are made, made again, listed and removed."""

import fcntl
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captionmill.kept_models import LOCK, MODEL, MODELS
from contract.model_folder import LANGUAGE_XML, MANIFEST_JSON
from model_prep.command import app, arguments_of
from model_prep.options import ConversionOptions
from tests.support.model_caches import CONVERTED, DEMO_CHECKPOINT, DEMO_FOLDER, Cache, refused
from tests.support.processes import ROOT, spawn, wait_until
from tests.support.without_torch import hide_torch


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", {})


@pytest.fixture(scope="module")
def tiny(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Cache, dict[str, dict[str, Any]]]:
    """A cache with the tiny checkpoint in two presets, and its list."""
    cache = Cache(tmp_path_factory.mktemp("cache"), {})
    cache.convert(tiny_checkpoint)
    cache.convert(tiny_checkpoint, "--preset", "exact")
    return cache, cache.kept()


def test_another_preset_is_another_model(tiny: tuple[Cache, dict[str, dict[str, Any]]]) -> None:
    _, kept = tiny
    assert sorted(row["language_format"] for row in kept.values()) == ["fp16", "fp32"]
    assert {name.split("-")[1] for name in kept} == {"balanced", "exact"}


def remove_manifest(folder: Path) -> None:
    (folder / MANIFEST_JSON).unlink()


def remove_a_file(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def cut_a_file(folder: Path) -> None:
    os.truncate((folder / LANGUAGE_XML).with_suffix(".bin"), 100)


def remove_record(folder: Path) -> None:
    (folder.parent / "kept.json").unlink()


@pytest.mark.parametrize("damage", [remove_manifest, remove_a_file, cut_a_file, remove_record])
def test_damage_is_seen(
    tiny: tuple[Cache, dict[str, dict[str, Any]]], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    cache, kept = tiny
    name = next(name for name in kept if "balanced" in name)
    shutil.copytree(cache.models / name, tmp_path / "captionmill" / MODELS / name)
    copy = Cache(tmp_path, {})
    assert copy.only()["state"] == "ready"
    damage(copy.models / name / MODEL)
    assert copy.only()["state"] == "damaged"


def test_a_damaged_model_is_made_again(
    tiny: tuple[Cache, dict[str, dict[str, Any]]], tiny_checkpoint: Path
) -> None:
    """What a conversion leaves that was killed while it published goes with it."""
    cache, kept = tiny
    name = next(name for name in kept if "balanced" in name)
    cut_a_file(cache.models / name / MODEL)
    for kind in ("partial", "replaced"):
        (cache.models / name / f".model.abc.{kind}").mkdir()
    assert CONVERTED in cache.convert(tiny_checkpoint).stderr
    now = cache.kept()[name]
    assert (now["state"], now["model"]) == ("ready", kept[name]["model"])
    assert list((cache.models / name).glob(".model*")) == []
    assert CONVERTED not in cache.convert(tiny_checkpoint).stderr


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_a_conversion_that_was_ended_goes_on_where_it_was(
    tiny_checkpoint: Path, cache: Cache, ending: signal.Signals
) -> None:
    with cache.start("convert", tiny_checkpoint) as process:
        wait_until(lambda: list(cache.models.glob("*/.model.work/export-*_model/.key")))
        process.send_signal(ending)
        _, told = process.communicate()
    assert process.returncode == (130 if ending == signal.SIGINT else -signal.SIGKILL)
    if ending == signal.SIGINT:
        assert "the same command goes on from there" in told
    (work,) = cache.models.glob("*/.model.work")
    wait_until(lambda: is_free(work / ".lock"))  # the kernel ends the child with the command
    kept = cache.only()
    assert kept["state"] == "unfinished"
    went_on = cache.convert(tiny_checkpoint)
    assert "exporting vision tower and projector …" not in went_on.stderr
    assert "publishing …" in went_on.stderr
    assert cache.only()["state"] == "ready"
    left = {path.name for path in (cache.models / kept["name"]).iterdir()}
    assert left == {MODEL, LOCK, "kept.json", "convert.log"}


def is_free(lock: Path) -> bool:
    with lock.open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def test_a_second_command_waits_for_the_first(
    tiny: tuple[Cache, dict[str, dict[str, Any]]], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    cache, kept = tiny
    name = next(name for name in kept if "balanced" in name)
    manifest, log = cache.models / name / MODEL / MANIFEST_JSON, tmp_path / "second.log"
    content = manifest.read_bytes()
    manifest.unlink()
    with (cache.models / name / LOCK).open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "captionmill", "convert", str(tiny_checkpoint)]
        second = spawn(command, log, cache.environment)
        waits = f"Another command is converting {name}; this one waits for it."
        wait_until(lambda: waits in log.read_text() or second.poll() is not None)
        refused(cache.run("models", "remove", "--yes", name), f"Another command is converting {name}")
        manifest.write_bytes(content)  # the first one has finished
        fcntl.lockf(lock, fcntl.LOCK_UN)
    assert second.wait() == 0
    assert waits in log.read_text()
    assert CONVERTED not in log.read_text()


def test_help_needs_no_torch(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", hide_torch(tmp_path / "hidden"))
    ours = cache.run("convert", "--help")
    theirs = cache.run("convert", "--help", module="model_prep")
    assert ours.returncode == theirs.returncode == 0
    options = re.compile(r"--[a-z][a-z0-9-]+")
    offered = set(options.findall(theirs.stdout))
    assert set(options.findall(ours.stdout)) - {"--model"} == offered >= {"--out", "--preset", "--asym"}


def test_a_folder_is_checked_without_torch(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", hide_torch(tmp_path / "without"))
    checked = cache.run("models", "verify", DEMO_FOLDER)
    assert checked.returncode == 0, checked.stderr
    assert "ok       openvino_language_model.xml" in checked.stdout
    refused(cache.run("models", "verify", DEMO_FOLDER, "--checkpoint", DEMO_CHECKPOINT), "torch", "prep")


def test_a_conversion_that_breaks_names_its_log(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A child that is killed stands for it: as the kernel does where memory is short."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'model_prep' in ' '.join(sys.orig_argv):\n"
        "    print('nearly there', file=sys.stderr, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    variables = {"PYTHONPATH": f"{tmp_path / 'broken'}{os.pathsep}{ROOT}"}
    cache = Cache(tmp_path / "cache", variables)
    ran = cache.run("convert", tiny_checkpoint)
    (log,) = cache.models.glob("*/convert.log")
    refused(ran, "was killed by signal 9", "the same command goes on", str(log))
    assert "nearly there" in ran.stderr


def test_models_are_shown_and_removed_by_the_beginning_of_their_name(
    tiny_checkpoint: Path, tiny: tuple[Cache, dict[str, dict[str, Any]]]
) -> None:
    cache, kept = tiny
    exact = next(name for name in kept if "exact" in name)
    table = cache.run("models").stdout
    assert all(name in table for name in kept)
    shown = cache.run("models", "show", exact[:-3])
    for said in (
        exact,
        str(tiny_checkpoint),
        "fp32",
        kept[exact]["model"],
        kept[exact]["path"],
        "computes what",
    ):
        assert said in shown.stdout
    assert json.loads(cache.run("models", "show", exact, "--json").stdout)["size_bytes"] > 0
    shared = exact.partition("-exact")[0]
    refused(cache.run("models", "remove", "--yes", shared), "is the beginning of several", *kept)
    refused(cache.run("models", "show", "nobody"), "There is no kept model nobody", *kept)
    refused(cache.run("models", "remove", exact), f"To remove {exact}", "--yes")
    assert set(cache.kept()) == set(kept)
    verified = cache.run("models", "verify", exact)
    assert verified.returncode == 0
    assert "ok       files" in verified.stdout
    assert cache.run("models", "remove", "--yes", exact[:-3]).returncode == 0
    assert set(cache.kept()) == set(kept) - {exact}
    assert not (cache.models / exact).exists()
    cache.convert(tiny_checkpoint, "--preset", "exact")


@pytest.mark.parametrize("option", ["--overwrite", "--stop-after=export"])
def test_what_is_for_a_folder_is_refused_without_one(cache: Cache, option: str) -> None:
    refused(cache.run("convert", DEMO_CHECKPOINT, option), option.split("=")[0], "name it with --out")
    assert cache.kept() == {}


@pytest.mark.parametrize(
    "options",
    [
        ConversionOptions(),
        ConversionOptions(preset="tutorial", calibration="photos", samples=3, name="one"),
        ConversionOptions(weight_format="int4", sym=False, awq=False, scale_estimation=True),
        ConversionOptions(sym=True, quantize_activations=False, vision_format="fp32"),
        ConversionOptions(group_size=-1, ratio=0.5, smooth_quant_alpha=0.0, openvino_tokenizer=True),
        ConversionOptions(revision="main", dynamic_quantization_group_size=0, as_json=True),
    ],
)
def test_options_are_read_as_they_were_written(options: ConversionOptions) -> None:
    from typer.main import get_command

    command = get_command(app).commands["convert"]  # type: ignore[attr-defined]
    read = command.make_context("convert", ["m", "--out", "o", *arguments_of(options)]).params
    assert ConversionOptions(**{name: read[name] for name in read if name not in ("model", "out")}) == options
