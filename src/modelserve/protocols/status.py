"""The one table: error class -> HTTP status and gRPC status. Knows no protocol's error body.

A class that is not in the table has the status of its nearest ancestor that is.
"""

from __future__ import annotations

from typing import NamedTuple

from modelserve import errors


class Status(NamedTuple):
    """http: status code. grpc: name of a grpc.StatusCode."""

    http: int
    grpc: str


STATUS: dict[type[errors.ModelServeError], Status] = {
    errors.ModelServeError: Status(500, "INTERNAL"),
    errors.InvalidRequest: Status(400, "INVALID_ARGUMENT"),
    errors.RequestTooLarge: Status(413, "INVALID_ARGUMENT"),
    errors.BodyTimeout: Status(408, "DEADLINE_EXCEEDED"),
    errors.UnsupportedMedia: Status(415, "INVALID_ARGUMENT"),
    errors.NotFound: Status(404, "NOT_FOUND"),
    errors.MethodNotAllowed: Status(405, "UNIMPLEMENTED"),
    errors.NotSupported: Status(501, "UNIMPLEMENTED"),
    errors.Overloaded: Status(429, "RESOURCE_EXHAUSTED"),
    errors.NotReady: Status(503, "UNAVAILABLE"),
    errors.RequestTimeout: Status(504, "DEADLINE_EXCEEDED"),
    errors.RequestCancelled: Status(499, "CANCELLED"),  # nginx's number; nobody is there to read it, the log is
    errors.InferenceFailed: Status(500, "INTERNAL"),
    errors.PredictorFailed: Status(502, "INTERNAL"),
}


def status(error: errors.ModelServeError) -> Status:
    """Status of an error: its own class's row, or the nearest ancestor's."""
    for kind in type(error).__mro__:
        if row := STATUS.get(kind):
            return row
    raise TypeError(f"{type(error).__name__} is no ModelServeError")
