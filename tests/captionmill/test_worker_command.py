"""`captionmill worker` as a person types it: it answers, drains, and refuses in one sentence."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from contract.job import Job
from contract.store import WORKERS_KEY, results_key
from producer.queue import Queue
from tests.support.processes import PATIENCE_S, ROOT, free_port, spawn, wait_until

MODEL: Final = ROOT / "demo" / "model" / "openvino"
IMAGES: Final = ROOT / "demo" / "images"
COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "installed": (str(Path(sys.executable).parent / "captionmill"), "worker"),
    "module": (sys.executable, "-P", "-m", "captionmill", "worker"),
    "celery": (
        *(sys.executable, "-P", "-m", "celery", "-A", "worker", "worker", "-P", "threads"),
        *("-c", "2", "-Q", "captionmill.jobs", "--without-mingle", "--without-gossip", "--without-heartbeat"),
    ),
}
NEVER: Final = "redis://127.0.0.1:1/0"
"""A server that no refusal here waits for."""


@pytest.fixture
def strange_folder(tmp_path: Path) -> Path:
    """Where somebody works whose own files are called as our packages are."""
    folder = tmp_path / "mine"
    (folder / "demo").mkdir(parents=True)
    for name in ("worker.py", "celery.py", "contract.py", "producer.py", "demo/__init__.py"):
        (folder / name).write_text('raise SystemExit("this is not what was meant")\n')
    return folder


class Started:
    """A worker, and the questions that it is asked."""

    def __init__(self, command: tuple[str, ...], folder: Path, redis_url: str, **environment: str) -> None:
        self.log = folder / "worker.log"
        # An empty part would be the folder where it is started.
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.process = spawn(
            list(command),
            self.log,
            {"PYTHONPATH": path, "CAPTIONMILL_PRECISION": "exact", **environment},
            folder,
        )
        self.connection: redis.Redis = redis.Redis.from_url(redis_url)
        self.queue = Queue(redis_url, self.connection)

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return bool(self.connection.hlen(WORKERS_KEY))

    def submit(self, count: int) -> None:
        questions = [{"id": "q1", "messages": "Describe the image."}]
        jobs = [
            Job.model_validate(
                {
                    "run": "r",
                    "index": index,
                    "questions": questions,
                    "image": {"kind": "path", "path": str(IMAGES / "01-square.png")},
                }
            )
            for index in range(count)
        ]
        self.queue.submit([(f"r-{job.index}", job.model_dump_json()) for job in jobs])

    def answers(self) -> list[str]:
        entries: Any = self.connection.xrange(results_key("r"))
        records = [json.loads(fields[b"record"]) for _, fields in entries]
        return [record["results"][0]["outcome"]["text"] for record in records]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.queue.close()
        self.connection.close()


@pytest.fixture
def started() -> Iterator[list[Started]]:
    all_of_them: list[Started] = []
    yield all_of_them
    for one in all_of_them:
        one.close()


@pytest.mark.parametrize("command", COMMANDS)
def test_it_answers_and_drains_beside_files_called_like_ours(
    started: list[Started], redis_url: str, strange_folder: Path, command: str
) -> None:
    if command == "celery":
        variables = {"REDIS_URL": redis_url, "MODEL_FOLDER": str(MODEL), "IMAGE_ROOTS": str(IMAGES)}
        given: tuple[str, ...] = ()
        # Celery itself looks into the folder where it is started.
        folder = strange_folder.parent
    else:
        variables = {}
        given = ("--redis", redis_url, "--model", str(MODEL), "--image-root", str(IMAGES))
        folder = strange_folder
    environment = {f"CAPTIONMILL_{name}": value for name, value in variables.items()}
    worker = Started((*COMMANDS[command], *given), folder, redis_url, **environment)
    started.append(worker)
    wait_until(worker.ready)
    worker.submit(40)
    wait_until(worker.answers)
    assert "torch" not in Path(f"/proc/{worker.process.pid}/maps").read_text(), "it is installed here"
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait() == 0, worker.log.read_text()
    assert all(text.endswith(" background.") for text in worker.answers())
    assert worker.queue.backlog() == 40 - len(worker.answers()), "what was not begun is in the queue"
    assert worker.connection.hlen("unacked") == 0


def refusal(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CAPTIONMILL_")}
    return subprocess.run(
        [sys.executable, "-m", "captionmill", "worker", *options],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**inherited, **{f"CAPTIONMILL_{name}": value for name, value in environment.items()}},
    )


REFUSED: Final[Mapping[str, tuple[tuple[str, ...], Mapping[str, str], str]]] = {
    "no model": (
        (),
        {},
        "CAPTIONMILL_MODEL_FOLDER names no model: set it to a model folder, or start the worker",
    ),
    "an unknown variable": (
        ("--model", str(MODEL)),
        {"DEVISE": "CPU"},
        "CAPTIONMILL_DEVISE is not a setting of the worker; the nearest one is CAPTIONMILL_DEVICE.",
    ),
    "a variable": (
        ("--model", str(MODEL)),
        {"KV_CACHE_BYTES": "0"},
        "CAPTIONMILL_KV_CACHE_BYTES: Input should be greater than or equal to 1.",
    ),
    "an option": (
        ("--model", str(MODEL), "--kv-cache-bytes", "0"),
        {},
        "--kv-cache-bytes: Input should be greater than or equal to 1.",
    ),
    "an option that goes before its variable": (
        ("--model", str(MODEL), "--url-timeout-s", "-1"),
        {"URL_TIMEOUT_S": "3"},
        "--url-timeout-s: Input should be greater than 0.",
    ),
    "an option under another name": (
        ("--model", str(MODEL), "--quantization-group", "x"),
        {},
        "--quantization-group: Input should be a valid integer",
    ),
    "a folder": (
        ("--model", str(MODEL), "--image-root", "/no/such/folder"),
        {},
        "--image-root: /no/such/folder is not a folder.",
    ),
    "one of several": (
        ("--model", str(MODEL), "--url-private-network", "10.1.0.0/16", "--url-private-network", "nowhere"),
        {},
        "--url-private-network: 'nowhere' does not appear to be an IPv4 or IPv6 network.",
    ),
    "two options": (
        ("--model", str(MODEL), "--precision", "exact", "--kv-cache-precision", "u8"),
        {},
        "--precision is exact, which leaves no other precision to choose: take --kv-cache-precision away.",
    ),
    "an option and a variable": (
        ("--model", str(MODEL), "--precision", "exact"),
        {"KV_CACHE_PRECISION": "u8"},
        "--precision is exact, which leaves no other precision to choose: take CAPTIONMILL_KV",
    ),
    "a URL that is none": (
        ("--model", str(MODEL), "--redis", "http://:geheim@server"),
        {},
        "--redis: it is not redis://[user:password@]host[:port][/database]",
    ),
}
"""What is wrong → options, variables, and the sentence's beginning."""


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_is_refused_in_a_sentence_that_names_what_was_typed(what: str) -> None:
    options, environment, sentence = REFUSED[what]
    ended = refusal(*options, **{"REDIS_URL": NEVER, **environment})
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"captionmill worker: {sentence}"), ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "geheim" not in ended.stderr
    assert ended.stdout == ""


def test_a_model_that_is_no_folder_is_refused() -> None:
    ended = refusal("--model", "no/such/model")
    assert ended.returncode == 2
    assert "no/such/model" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_empty_value_is_a_value() -> None:
    """As `--url-scheme ''`, which fetches no URL: an option is ignored only where it was not given."""
    ended = refusal("--model", str(MODEL), "--kv-cache-bytes", "", REDIS_URL=NEVER)
    assert ended.returncode == 2
    assert "--kv-cache-bytes: Input should be a valid integer" in ended.stderr


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--device", "TPU", 'There is no device "TPU" here; available are'),
        ("--http-port", "{port}", "--http-port: 127.0.0.1:{port} cannot be opened (Address already in use)."),
        (
            "--inference-threads",
            "1",
            "With one CPU thread OpenVINO needs CAPTIONMILL_PRECISION=exact (`captionm",
        ),
    ],
)
def test_what_only_the_machine_knows_is_refused_too(
    redis_url: str, option: str, value: str, sentence: str
) -> None:
    port = redis_url.rpartition(":")[2].partition("/")[0]
    ended = refusal("--redis", redis_url, "--model", str(MODEL), option, value.format(port=port))
    assert ended.returncode == 2
    assert f"\ncaptionmill worker: {sentence.format(port=port)}" in f"\n{ended.stderr}"
    assert "Traceback" not in ended.stderr


def test_ctrl_c_before_there_is_a_server_ends_it_without_a_traceback(
    started: list[Started], tmp_path: Path
) -> None:
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    command = (*COMMANDS["module"], "--redis", nobody, "--model", str(MODEL))
    worker = Started(command, tmp_path, nobody)
    started.append(worker)
    wait_until(lambda: "is away" in worker.log.read_text())
    worker.process.send_signal(signal.SIGINT)
    assert worker.process.wait() == 130
    said = worker.log.read_text()
    assert "captionmill: Stopped before a job was taken." in said
    assert "`captionmill server` starts one" in said
    assert "Traceback" not in said
