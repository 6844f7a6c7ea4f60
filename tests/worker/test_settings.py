"""The worker's settings and device: read from the environment, refused in a sentence."""

from pathlib import Path

import openvino
import pytest

from worker.device import UnknownDeviceError, resolve_device
from worker.precision import computed_as
from worker.settings import SettingsError, load_settings


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAPTIONMILL_MODEL_FOLDER", str(tmp_path))


def test_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.redis_url.get_secret_value() == "redis://127.0.0.1:6379/0"
    assert settings.image_roots == (tmp_path,)
    assert dict(settings.properties()) == {}
    assert (settings.attention, settings.kv_cache_bytes, settings.max_rows) == ("stateful", None, 16)
    assert (settings.max_step_tokens, settings.image_cache_bytes) == (None, 2**29)


def test_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"ATTENTION": "paged", "KV_CACHE_BYTES": "1000", "MAX_ROWS": "4", "MAX_STEP_TOKENS": "6"}
    for name, value in (given | {"IMAGE_CACHE_BYTES": "0"}).items():
        monkeypatch.setenv(f"CAPTIONMILL_{name}", value)
    settings = load_settings()
    assert (settings.attention, settings.kv_cache_bytes, settings.max_rows) == ("paged", 1000, 4)
    assert (settings.max_step_tokens, settings.image_cache_bytes) == (6, 0)


def test_roots_are_separated_like_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    monkeypatch.setenv("CAPTIONMILL_IMAGE_ROOTS", f"{tmp_path}:{tmp_path / 'b'}")
    assert load_settings().image_roots == (tmp_path, tmp_path / "a")


def test_urls_have_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    assert (settings.url_schemes, settings.url_hosts) == (("http", "https"), ())
    assert (settings.url_private_networks, settings.interactive_slots) == ((), 2)
    given = {"URL_SCHEMES": "https, S3", "URL_HOSTS": "*.Example.com,a.b", "INTERACTIVE_SLOTS": "0"}
    for name, value in (given | {"URL_PRIVATE_NETWORKS": "10.1.0.0/16"}).items():
        monkeypatch.setenv(f"CAPTIONMILL_{name}", value)
    settings = load_settings()
    assert (settings.url_schemes, settings.url_hosts) == (("https", "s3"), ("*.example.com", "a.b"))
    assert (settings.url_private_networks, settings.interactive_slots) == (("10.1.0.0/16",), 0)
    monkeypatch.setenv("CAPTIONMILL_URL_SCHEMES", "")
    assert load_settings().url_schemes == ()
    monkeypatch.setenv("CAPTIONMILL_URL_PRIVATE_NETWORKS", "10.1.0.300")
    with pytest.raises(SettingsError, match=r"URL_PRIVATE_NETWORKS.*10\.1\.0\.300"):
        load_settings()


def test_properties_come_from_three_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIONMILL_PRECISION", "exact")
    monkeypatch.setenv("CAPTIONMILL_INFERENCE_THREADS", "3")
    monkeypatch.setenv("CAPTIONMILL_OPENVINO_PROPERTIES", '{"NUM_STREAMS": "1"}')
    assert dict(load_settings().properties()) == {
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        "INFERENCE_NUM_THREADS": "3",
        "NUM_STREAMS": "1",
    }


def test_precisions_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "INFERENCE_PRECISION": "bf16",
        "KV_CACHE_PRECISION": "f16",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "128",
        "STREAMS": "2",
        "CACHE_DIR": "/somewhere",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"CAPTIONMILL_{name}", value)
    properties = load_settings().properties()
    assert properties == {
        "INFERENCE_PRECISION_HINT": "bf16",
        "KV_CACHE_PRECISION": "f16",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "128",
        "NUM_STREAMS": "2",
        "CACHE_DIR": "/somewhere",
    }
    assert computed_as("model", properties, "paged") == (
        "model+DYNAMIC_QUANTIZATION_GROUP_SIZE=128+INFERENCE_PRECISION_HINT=bf16+KV_CACHE_PRECISION=f16"
        "+attention=paged"
    )
    assert computed_as("model", {"NUM_STREAMS": "2"}, "stateful") == "model"


def test_exact_and_another_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIONMILL_PRECISION", "exact")
    monkeypatch.setenv("CAPTIONMILL_KV_CACHE_PRECISION", "u8")
    with pytest.raises(SettingsError, match=r"exact.* take CAPTIONMILL_KV_CACHE_PRECISION away"):
        load_settings()


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("CAPTIONMILL_DEVISE", "CPU", "CAPTIONMILL_DEVISE is not a setting .* CAPTIONMILL_DEVICE"),
        ("CAPTIONMILL_PRECISION", "f32", "CAPTIONMILL_PRECISION: .*'default' or 'exact'"),
        ("CAPTIONMILL_INFERENCE_THREADS", "0", "CAPTIONMILL_INFERENCE_THREADS: .*greater"),
        ("CAPTIONMILL_IMAGE_ROOTS", "/no/such/folder", "/no/such/folder is not a folder"),
        ("CAPTIONMILL_IMAGE_MAX_PX", "100000000", "CAPTIONMILL_IMAGE_MAX_PX: .*less"),
        ("CAPTIONMILL_IMAGE_MAX_BYTES", "", "CAPTIONMILL_IMAGE_MAX_BYTES: .*integer"),
        ("CAPTIONMILL_ATTENTION", "flash", "CAPTIONMILL_ATTENTION: .*'stateful' or 'paged'"),
        ("CAPTIONMILL_KV_CACHE_BYTES", "0", "CAPTIONMILL_KV_CACHE_BYTES: .*greater"),
        ("CAPTIONMILL_MAX_STEP_TOKENS", "17", "MAX_STEP_TOKENS is below CAPTIONMILL_MAX_ROWS"),
    ],
)
def test_refused(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=sentence):
        load_settings()


def test_a_property_that_two_settings_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIONMILL_PRECISION", "exact")
    monkeypatch.setenv("CAPTIONMILL_OPENVINO_PROPERTIES", '{"KV_CACHE_PRECISION": "u8"}')
    with pytest.raises(SettingsError, match="KV_CACHE_PRECISION, which another setting sets"):
        load_settings()


def test_a_missing_model_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAPTIONMILL_MODEL_FOLDER")
    with pytest.raises(
        SettingsError, match=r"CAPTIONMILL_MODEL_FOLDER names no model.*worker --model FOLDER"
    ):
        load_settings()


def test_the_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIONMILL_REDIS_URL", "redis://:hunter2@127.0.0.1/0")
    assert "hunter2" not in repr(load_settings())
    assert "hunter2" not in str(load_settings())
    monkeypatch.setenv("CAPTIONMILL_DEVISE", "hunter2")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("device", ["CPU", "cpu", " AUTO"])
def test_known_devices(device: str) -> None:
    assert resolve_device(device) == device.strip().upper()


@pytest.mark.parametrize("device", ["GPU.7", "TPU", "", "CPU,GPU", "GPU:0"])
def test_unknown_devices_name_those_there_are(device: str) -> None:
    with pytest.raises(UnknownDeviceError) as refused:
        resolve_device(device)
    assert f'"{device}"' in str(refused.value)
    for available in [*openvino.Core().available_devices, "AUTO"]:
        assert available in str(refused.value)
