"""`captionmill doctor`: a line for everything, what to do where something is wrong, and never a traceback."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from captionmill.machine_findings import EXTRAS, cpu_limit
from captionmill.site_findings import without_password
from contract.store import WORKERS_KEY, WorkerRecord
from tests.support.processes import ROOT, free_port, start_server

MODEL: Final = ROOT / "demo" / "model" / "openvino"
COMMAND: Final = (sys.executable, "-P", "-m", "captionmill", "doctor")


def run(
    *options: str, cwd: Path = ROOT, path: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CAPTIONMILL_")}
    inherited["PYTHONPATH"] = os.pathsep.join(filter(None, [path, str(ROOT), os.environ.get("PYTHONPATH")]))
    given = {f"CAPTIONMILL_{name}": value for name, value in environment.items()}
    ended = subprocess.run(
        [*COMMAND, *options], cwd=cwd, check=False, capture_output=True, text=True, env={**inherited, **given}
    )
    assert "Traceback" not in ended.stdout + ended.stderr, ended.stderr
    return ended


def findings(*options: str, **more: Any) -> dict[str, dict[str, Any]]:
    """Subject → the finding. The exit code says whether something has to be done."""
    ended = run("--json", *options, **more)
    *lines, last = [json.loads(line) for line in ended.stdout.splitlines()]
    needed = sum(line["state"] == "do" for line in lines)
    assert last["to_do"] == needed
    assert ended.returncode == (1 if needed else 0)
    for line in lines:
        assert line["found"]
        assert line["state"] != "do" or line["remedy"], line
    return {line["subject"]: line for line in lines}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """With all that jobs need."""
    options = {"appendonly": "yes", "maxmemory": "100mb", "maxmemory-policy": "noeviction"}
    process, url = start_server(tmp_path_factory.mktemp("server"), options=options)
    yield f"{url}/0"
    process.kill()
    process.wait()


def announce(url: str, *models: str, **more: Any) -> None:
    """Workers that are alive, as the store knows them."""
    with redis.Redis.from_url(url) as connection:
        connection.delete(WORKERS_KEY)
        for number, model in enumerate(models):
            now = time.time()
            told = {"worker": f"host:{number}", "model": model, "device": "CPU", "slots": 8, **more}
            record = WorkerRecord.model_validate({**told, "time": now, "started": now - 60})
            connection.hset(WORKERS_KEY, record.worker, record.model_dump_json())


def test_where_all_is_well_nothing_has_to_be_done(server: str) -> None:
    announce(server, "a-model")
    ended = run("--redis", server, "--model", str(MODEL))
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.endswith("Nothing has to be done.\n")
    for line in (
        r"ok    Python: 3\.\d+",
        r"ok    celery: 5\.",
        r"ok    device CPU: .+",
        r"(ok|note)  +AVX-512: .+",
        r"(ok|note)  +cores: \d+",
        r"ok    free memory: .+ GiB",
        r"ok    this folder: .+ free",
        r"ok    server: 127\.0\.0\.1:\d+: Valkey 9\.[\d.]+, noeviction",
        r"ok    persistence: append-only file",
        r"ok    memory of the server: .+ of 100\.0 MiB",
        r"ok    worker: host:0: a-model on CPU, 8 slots, up 0:01:00",
        r"ok    files: captionmill-demo-fp16-\w+: complete",
        r"ok    openvino_language_model\.xml: can be read for CPU",
    ):
        assert re.search(f"^{line}", ended.stdout, flags=re.MULTILINE), line


def test_without_a_server_it_says_what_happens_then() -> None:
    found = findings()
    assert found["server"]["state"] == "ok"
    assert "none named" in found["server"]["found"]


def test_a_server_that_is_away() -> None:
    port = free_port()
    found = findings(REDIS_URL=f"redis://:geheim@127.0.0.1:{port}/0")["server"]
    assert found["state"] == "do"
    assert found["found"].startswith(f"127.0.0.1:{port} does not answer")
    assert "`captionmill server`" in found["remedy"]
    assert "geheim" not in str(found)


def test_a_url_that_is_none() -> None:
    found = findings("--redis", "http://:geheim@x")["server"]
    assert found["state"] == "do"
    assert "geheim" not in str(found)


def test_a_server_that_is_set_up_badly(tmp_path: Path) -> None:
    process, url = start_server(tmp_path, options={"maxmemory": "2mb", "maxmemory-policy": "allkeys-lru"})
    try:
        found = findings("--redis", f"{url}/3")
        with redis.Redis.from_url(url) as connection:
            connection.config_set("requirepass", "a-password-of-ours")
        refused = findings("--redis", f"{url}/3")["server"]
    finally:
        process.kill()
        process.wait()
    assert "allkeys-lru" in found["server"]["found"]
    assert found["persistence"]["remedy"] == "appendonly yes"
    assert (
        found["memory of the server"]["state"] == "do"
        or "of 2.0 MiB" in found["memory of the server"]["found"]
    )
    worker = found["workers"]["remedy"]
    assert worker == f"captionmill worker --redis {url}/3 --model MODEL --image-root FOLDER"
    assert (refused["state"], "the password" in refused["found"]) == ("do", True)


def test_workers_that_differ(server: str) -> None:
    announce(server, "one", "another")
    found = findings("--redis", server)
    assert found["models"]["state"] == "note"
    assert "--model" in found["models"]["remedy"]


def test_variables_and_image_roots(tmp_path: Path) -> None:
    found = findings(DEVISE="CPU", IMAGE_ROOTS=str(tmp_path))
    assert (
        found["variables"]["found"]
        == "CAPTIONMILL_DEVISE is not a setting; the nearest one is CAPTIONMILL_DEVICE"
    )
    assert found["image root"]["found"] == str(tmp_path)
    missing = findings(IMAGE_ROOTS=f"{tmp_path}:{tmp_path / 'none'}")["variables"]
    assert missing["found"] == f"CAPTIONMILL_IMAGE_ROOTS: {tmp_path / 'none'} is not a folder"
    assert missing["state"] == "do"


def test_extras_that_are_missing_are_notes_with_what_to_install() -> None:
    found = findings()
    for extra in EXTRAS:
        assert EXTRAS[extra] in found[extra]["found"]
        if found[extra]["state"] != "ok":
            assert found[extra]["state"] == "note"
            assert "pip install '" in found[extra]["remedy"]


def test_every_extra_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS) == set(project["optional-dependencies"]) - {"test"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ImportError('libopenvino.so is gone')", "libopenvino.so is gone"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGILL)", "it crashed with SIGILL"),
        ("raise SystemExit(3)", "it ended with code 3"),
    ],
)
def test_a_library_that_fails_or_crashes_is_a_line(tmp_path: Path, body: str, said: str) -> None:
    (tmp_path / "openvino.py").write_text(body)
    found = findings(path=str(tmp_path))
    assert found["OpenVINO"]["state"] == "do"
    assert said in found["OpenVINO"]["found"]
    assert found["server"]["state"] == "ok", "what comes after it is looked at, too"


def test_a_check_that_breaks_is_a_line(tmp_path: Path) -> None:
    """As on a machine that is unlike any we know: this one's packages cannot be listed."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata\n"
        "def requires(name): raise RuntimeError('no such machine')\n"
        "importlib.metadata.requires = requires\n"
    )
    found = findings(path=str(tmp_path))
    assert found["Extras"]["found"] == "this check itself failed (RuntimeError: no such machine)"
    assert found["Extras"]["state"] == "do"
    assert found["server"]["state"] == "ok"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    return folder


def test_a_model_that_is_not_whole(copied: Path) -> None:
    (copied / "openvino_language_model.bin").unlink()
    found = findings("--model", str(copied))["files"]
    assert "openvino_language_model.bin, which its manifest names, is missing" in found["found"]


def test_a_changed_byte_is_found_by_a_deep_look(copied: Path) -> None:
    with (copied / "openvino_vision_embeddings_model.bin").open("r+b") as stream:
        stream.write(b"\xff")
    assert findings("--model", str(copied))["files"]["state"] == "ok"
    found = findings("--model", str(copied), "--deep")["files"]
    assert "openvino_vision_embeddings_model.bin differs from its manifest" in found["found"]


def test_a_model_that_this_openvino_cannot_read(copied: Path) -> None:
    (copied / "captionmill.json").unlink()
    (copied / "openvino_language_model.xml").write_text("<net name='none' version='99'></net>")
    found = findings(MODEL_FOLDER=str(copied))
    assert found["openvino_vision_embeddings_model.xml"]["state"] == "ok"
    assert found["openvino_language_model.xml"]["found"].startswith(
        "it cannot be read for CPU (RuntimeError:"
    )


def test_a_deep_look_compiles_the_model() -> None:
    found = findings("--model", "demo", "--deep", PRECISION="exact")
    for part in ("vision_embeddings", "text_embeddings", "language"):
        assert found[f"openvino_{part}_model.xml"]["found"] == "compiled for CPU"


def test_a_device_that_is_not_here() -> None:
    found = findings("--model", str(MODEL), "--device", "TPU")["device"]
    assert found["found"].startswith('There is no device "TPU" here; available are CPU')


def test_a_deep_look_needs_a_model() -> None:
    ended = run("--deep")
    assert ended.returncode == 2
    assert ended.stderr == "captionmill: --deep is for a model: name it with --model.\n"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:geheim@h:1/2", "redis://h:1/2"),
        ("rediss://worker:geheim@h:1/0?ssl_ca_certs=/ca.pem", "rediss://worker@h:1/0?ssl_ca_certs=/ca.pem"),
    ],
)
def test_a_line_to_paste_holds_no_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_what_a_container_may_use(tmp_path: Path) -> None:
    assert cpu_limit(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cpu_limit(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpu_limit(tmp_path) is None


def test_people_see_tables() -> None:
    shown = subprocess.run(
        ["script", "-qec", " ".join(COMMAND), "/dev/null"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100", "TERM": "xterm"},
    )
    assert shown.returncode == 0, shown.stdout
    for title in ("Python", "Extras", "Machine", "Settings", "Server and workers", "Models"):
        assert re.search(rf"{title} *\x1b", shown.stdout), title
    assert "┌" in shown.stdout
