"""The failure of a job or question, as a value: a code and a sentence that a person can act on."""

from enum import StrEnum
from typing import Literal

from contract.base import Contract, Text


class FailureCode(StrEnum):
    """Why a question has no answer."""

    INVALID_JOB = "invalid_job"
    UNSUPPORTED_VERSION = "unsupported_version"
    NO_IMAGE = "no_image"
    IMAGE_NOT_FOUND = "image_not_found"
    IMAGE_NOT_ALLOWED = "image_not_allowed"
    IMAGE_UNREADABLE = "image_unreadable"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_ASPECT = "image_aspect"
    NOT_AN_IMAGE = "not_an_image"
    IMAGE_BROKEN = "image_broken"
    IMAGE_CRASHED_DECODER = "image_crashed_decoder"
    URL_NOT_ALLOWED = "url_not_allowed"
    URL_OPTED_OUT = "url_opted_out"
    DOWNLOAD_FAILED = "download_failed"
    QUESTION_TOO_LONG = "question_too_long"
    QUESTION_REFUSED = "question_refused"
    WRONG_MODEL = "wrong_model"
    DEPENDENCY_FAILED = "dependency_failed"
    EXCEEDS_CAPACITY = "exceeds_capacity"
    CRASHED_WORKER = "crashed_worker"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INTERNAL_ERROR = "internal_error"


class Failure(Contract):
    """The reason why a question has no answer."""

    kind: Literal["failure"] = "failure"
    code: FailureCode
    message: Text


class Refusal(Exception):  # noqa: N818 - not a bug: it ends in a job's record
    """Carries a Failure to where the job's record is written; the only exception of contract."""

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.failure = Failure(code=code, message=message)
