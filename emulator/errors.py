"""What is told to clients when something is wrong: OpenAI's shape, with the right status."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import ceil


@dataclass(eq=False)
class ApiError(Exception):
    """A request that is answered by an error.

    Args:
        status: of HTTP.
        message: one or more sentences for whoever wrote the client.
        code: a name that a program can look for; None: none.
        param: field of the request that is wrong; None: no single one.
        kind: OpenAI's ``type``.
        headers: to be sent with it.
    """

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    kind: str = "invalid_request_error"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def told(self) -> bytes:
        """The JSON of it."""
        return error_body(self.message, self.kind, self.param, self.code)


def error_body(message: str, kind: str, param: str | None, code: str | None) -> bytes:
    """The JSON of an error, as OpenAI writes it."""
    error = {"message": message, "type": kind, "param": param, "code": code}
    return json.dumps({"error": error}).encode()


def wrong_value(message: str, param: str | None, code: str | None = "invalid_value") -> ApiError:
    """A field of the request has a value that cannot be."""
    return ApiError(400, message, code, param)


def too_long(message: str, param: str | None) -> ApiError:
    """A request that can never fit."""
    return ApiError(400, message, "context_length_exceeded", param)


def not_emulated(param: str, why: str) -> ApiError:
    """A field would change the answer in a way that a simulation has no answer for."""
    return ApiError(400, f"'{param}' is not emulated: {why}", "unsupported_value", param)


def rejected(retry_after_s: float = 1.0) -> ApiError:
    """Admission control or a full gateway said no."""
    return ApiError(
        429,
        "The deployment takes no more requests now: its admission control or its gateway refused"
        " this one. Try again later.",
        "rate_limit_exceeded",
        kind="requests",
        headers={"Retry-After": f"{max(1, round(retry_after_s))}"},
    )


def crashed() -> ApiError:
    """The replica that served the request is gone."""
    return ApiError(
        503, "The replica that served this request has crashed.", "replica_failed",
        kind="server_error",
    )  # fmt: skip


def wanted_error(status: int, retry_after_s: float | None) -> ApiError:
    """A fault that was asked for, by a header or by the schedule."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    code = "server_error" if status >= 500 else "bad_request"
    if status == 429:
        kind, code = "requests", "rate_limit_exceeded"
    headers = {} if retry_after_s is None else {"Retry-After": f"{ceil(retry_after_s)}"}
    return ApiError(status, "This error is a fault on demand.", code, kind=kind, headers=headers)


def leaving() -> ApiError:
    """The server ends."""
    return ApiError(
        503, "The server is shutting down.", "shutting_down", kind="server_error"
    )  # fmt: skip


def internal() -> ApiError:
    """Our mistake."""
    return ApiError(
        500, "Something went wrong in the emulator; its log says what.", "internal_error",
        kind="server_error",
    )  # fmt: skip
