"""The doctor's checks of a model: whether its folder is complete and OpenVINO runs it here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from captionmill.child_call import ChildCallError, call_in_child
from captionmill.finding import Finding, ok, size, to_do
from captionmill.site_findings import device_properties
from contract.model_folder import LANGUAGE_XML, TEXT_XML, VISION_XML
from worker.memory import available_bytes

PARTS: Final = (VISION_XML, TEXT_XML, LANGUAGE_XML)


def model(folder: Path, device: str, *, deep: bool) -> Iterator[Finding]:
    """Check a model folder. `deep` hashes all files and compiles all parts: minutes for a large model."""
    model_id, complaint = call_in_child(_read, folder, deep)
    if complaint is not None:
        yield to_do("files", complaint.rstrip("."), "convert the checkpoint again, or copy the folder again")
        return
    looked = "every file as its manifest says" if deep else "complete; --deep compares every byte, too"
    yield ok("files", f"{model_id}: {looked}")
    weights = sum((folder / part).with_suffix(".bin").stat().st_size for part in PARTS)
    free = available_bytes()
    if weights > free:
        yield to_do(
            "memory",
            f"its weights are {size(weights)}, and {size(free)} is free",
            "take a smaller weight format",
        )
    else:
        yield ok("memory", f"its weights are {size(weights)} of the {size(free)} that is free")
    yield from _parts(folder, device, deep=deep)


def _parts(folder: Path, device: str, *, deep: bool) -> Iterator[Finding]:
    known, complaint = call_in_child(_device, device)
    if complaint is not None:
        yield to_do("device", complaint.rstrip("."), "name one of these with --device")
        return
    for part in PARTS:
        try:
            left = call_in_child(_unsupported, folder / part, known)
            if not left and deep:
                call_in_child(_compile, folder, part, known, device_properties())
        except ChildCallError as error:
            what = "compiled" if deep else "read"
            yield to_do(
                part,
                f"it cannot be {what} for {known} ({_first_line(error)})",
                "convert it with this OpenVINO",
            )
            continue
        if left:
            yield to_do(part, f"{known} does not compute {', '.join(left)}", "name another --device")
        else:
            yield ok(part, f"{'compiled' if deep else 'can be read'} for {known}")


def _first_line(error: Exception) -> str:
    """The beginning of an OpenVINO error, which has many lines, on one line."""
    return " ".join(str(error).split())[:300]


def _read(folder: Path, deep: bool) -> tuple[str, str | None]:
    """(model id, None), or ("", why the folder cannot be used)."""
    from worker.llava.folder import ModelFolderError, read_folder

    try:
        return read_folder(folder, hashed=deep).model_id, None
    except ModelFolderError as error:
        return "", str(error)


def _device(device: str) -> tuple[str, str | None]:
    from worker.device import UnknownDeviceError, resolve_device

    try:
        return resolve_device(device), None
    except UnknownDeviceError as error:
        return "", str(error)


def _unsupported(part: Path, device: str) -> list[str]:
    from worker.device import unsupported_operations

    return unsupported_operations(part, device)


def _compile(folder: Path, part: str, device: str, properties: dict[str, str]) -> None:
    from worker.device import compile_for
    from worker.llava.folder import folder_properties

    compile_for(folder / part, device, {**folder_properties(folder), **properties})
