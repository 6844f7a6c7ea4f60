"""What deploy/ and docker-compose.yml say holds together: schemas, users, limits, settings, metrics.

No container runs here. tests/test_deploy_images.py runs what the Dockerfiles say without one.
"""

import importlib
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import yaml

from contract.broker import JOB_QUEUE
from tests.support.processes import ROOT
from worker.settings import PREFIX, Settings

DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
KUBERNETES_VERSION = "1.34"

COUNTERS = (
    *("jobs", "questions", "images", "prompt_tokens", "completion_tokens", "image_cache_hits"),
    *("image_cache_misses", "attempts", "suspects"),
)
GAUGES = (
    *("jobs_in_flight", "slots", "rows_active", "kv_cache_bytes", "kv_cache_limit_bytes", "ready"),
    *(
        "queue_messages",
        "unacked_messages",
        "result_records",
        "store_memory_bytes",
        "store_memory_limit_bytes",
    ),
    *("dead_letters", "workers_live", "workers_slots", "up"),
)
HISTOGRAMS = (
    *("fetch_seconds", "decode_image_seconds", "vision_seconds", "prefill_seconds", "decode_step_seconds"),
    *("time_to_first_token_seconds", "job_seconds", "rows_per_step"),
)
OF_PROCESSES = {"process_start_time_seconds"}


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one is not None]


COMPOSE = documents(ROOT / "docker-compose.yml")[0]


def resources() -> Iterator[dict[str, Any]]:
    for path in KUBERNETES:
        yield from documents(path)


def pods() -> dict[str, dict[str, Any]]:
    kinds = ("Deployment", "StatefulSet", "Job")
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in resources()
        if one["kind"] in kinds
    }


def users() -> set[str]:
    return set(re.findall(r"^user (\w+)", (DEPLOY / "valkey" / "users.acl").read_text(), re.MULTILINE))


# Schemas


def test_compose_fits_its_schema() -> None:
    check = ["check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    checked = subprocess.run(
        [sys.executable, "-m", *check], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_manifests_fit_their_schemas(path: Path) -> None:
    """Strictly: an unknown field is an error. KEDA's and kustomize's own kinds have none here."""
    for one in documents(path):
        if not one["apiVersion"].startswith(("keda.sh/", "kustomize.")):
            kubernetes_validate.validate(one, KUBERNETES_VERSION, strict=True)


# Containers


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_compose_services_are_confined(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert {"memory", "pids"} <= service["deploy"]["resources"]["limits"].keys()
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@pytest.mark.parametrize("name", pods())
def test_pods_are_confined(name: str) -> None:
    pod = pods()[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("*.Dockerfile")), ids=lambda path: path.name)
def test_images_run_without_root(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"^USER (.*)", text, re.MULTILINE) == ["10001:10001"]
    copied = {name for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for name in line.split()}
    let_through = set(re.findall(r"^!(.*)", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert copied == let_through
    assert all((ROOT / name).exists() for name in copied)
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {name.removesuffix("*") for name in setuptools["packages"]["find"]["include"]} <= copied


def test_a_drain_has_the_time_it_may_take() -> None:
    drain_s = Settings.model_fields["drain_s"].default
    for name in ("worker-cpu", "worker-gpu"):
        assert int(COMPOSE["services"][name]["stop_grace_period"].removesuffix("s")) >= drain_s + 15
        assert pods()[name]["terminationGracePeriodSeconds"] >= drain_s + 15


# Access


def test_each_connects_as_its_own_user_by_a_secret() -> None:
    found = {}
    for name, service in COMPOSE["services"].items():
        environment = service.get("environment", {})
        if f"{PREFIX}REDIS_URL" in environment:
            found[name] = (environment, set(service["secrets"]))
    for name, pod in pods().items():
        environment = {one["name"]: one["value"] for one in pod["containers"][0].get("env", ())}
        if f"{PREFIX}REDIS_URL" in environment:
            (volume,) = (one["secret"] for one in pod["volumes"] if "secret" in one)
            found[f"pod {name}"] = (environment, {one["key"] for one in volume["items"]})
    assert len(found) == 8
    for name, (environment, secrets) in found.items():
        user = environment[f"{PREFIX}REDIS_URL"].removeprefix("redis://").partition("@")[0]
        assert user in users(), name
        assert secrets == {f"{user}_password"}, name
        assert environment[f"{PREFIX}REDIS_PASSWORD_FILE"].endswith(f"/{user}_password"), name


def test_every_user_has_a_secret() -> None:
    (users_made,) = re.findall(r"for user in (.*); do", (DEPLOY / "secrets.sh").read_text())
    made = set(users_made.split())
    assert users() - {"default"} <= made
    assert {f"{user}_password" for user in made} == set(COMPOSE["secrets"])
    hashed = set(re.findall(r"hash_of (\w+)_password", (DEPLOY / "valkey" / "start.sh").read_text()))
    assert hashed == users() - {"default"}


def test_keda_asks_for_the_queue_as_the_scaler() -> None:
    authentication, scaled = documents(DEPLOY / "kubernetes" / "keda.yaml")
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "redis"
    assert trigger["metadata"]["listName"] == JOB_QUEUE
    assert trigger["metadata"]["username"] in users()
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    (secret,) = authentication["spec"]["secretTargetRef"]
    assert (secret["parameter"], secret["key"]) == ("password", "scaler_password")
    assert scaled["spec"]["scaleTargetRef"]["name"] in pods()


def test_settings_that_are_named_exist() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    named: set[str] = set()
    places = (ROOT / "docker-compose.yml", *KUBERNETES, *DEPLOY.glob("*.Dockerfile"))
    for path in places:
        named |= set(re.findall(rf"{PREFIX}[A-Z_]+", path.read_text()))
    assert named <= known


# Metrics


def metric_names() -> set[str]:
    """All that exist: those of the running code as soon as it has them, and the agreed ones until then."""
    names = {f"captionmill_{name}_total" for name in COUNTERS} | {f"captionmill_{name}" for name in GAUGES}
    names |= {f"captionmill_{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")}
    if importlib.util.find_spec("worker.monitoring.metrics") and importlib.util.find_spec(
        "producer.exporter"
    ):
        worker = importlib.import_module("worker.monitoring.metrics").Metrics().registry.collect()
        server = importlib.import_module("producer.exporter").StoreCollector("redis://h").describe()
        names = set()
        for family in (*worker, *server):
            parts = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
            names |= {family.name + part for part in parts.get(family.type, ("",))}
    return names | OF_PROCESSES


def expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "captionmill.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    for group in documents(DEPLOY / "prometheus" / "alerts.yml")[0]["groups"]:
        found += [rule["expr"] for rule in group["rules"]]
    return [one.replace("$__rate_interval", "5m") for one in found]


@pytest.mark.parametrize("expression", expressions())
def test_expressions_ask_for_metrics_that_exist(expression: str) -> None:
    promql_parser.parse(expression)
    without_labels = re.sub(r'"[^"]*"', "", expression)
    asked = set(re.findall(r"\b(?:captionmill|process)_\w+", without_labels))
    assert asked
    assert asked <= metric_names()


def test_every_alert_says_what_is_wrong() -> None:
    (group,) = documents(DEPLOY / "prometheus" / "alerts.yml")[0]["groups"]
    assert len(group["rules"]) >= 6
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


def test_prometheus_finds_what_compose_starts() -> None:
    server, worker = documents(DEPLOY / "prometheus" / "prometheus.yml")[0]["scrape_configs"]
    assert server["static_configs"][0]["targets"] == ["exporter:9808"]
    assert COMPOSE["services"]["exporter"]["command"][-2:] == ["--port", "9808"]
    (names,) = worker["dns_sd_configs"]
    assert set(names["names"]) <= COMPOSE["services"].keys()
    assert f"{PREFIX}HTTP_PORT={names['port']}" in (DEPLOY / "worker.Dockerfile").read_text()
