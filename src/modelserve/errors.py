"""Every error that modelserve raises on purpose, in one tree.

    ModelServeError
    ├── ConfigError            the command line, the environment or the model is wrong: the server does not start
    │   └── LoadError          the model cannot be served (files, task, weights, dtype), and why
    ├── InvalidRequest         the caller's mistake; `param` names the field where there is one
    │   ├── RequestTooLarge    body, number of texts or size of the answer over its limit
    │   ├── BodyTimeout        --request_timeout passed before the body had arrived
    │   └── UnsupportedMedia   a content type or content encoding that nobody here reads
    ├── NotFound               no such route, model or version
    │   └── ModelNotFound
    ├── MethodNotAllowed       the route is there, the method is not
    ├── NotSupported           known to the protocol, not offered by this server or this model
    ├── Overloaded             the queue is full; `retry_after_s` says when to come back
    ├── NotReady               loading, draining or unloaded; `retry_after_s` likewise
    │   └── PredictorDown      the remote predictor cannot be reached, or is not ready
    ├── RequestTimeout         --request_timeout passed before the answer
    ├── RequestCancelled       the caller went away; nobody reads this
    ├── InferenceFailed        ours: a forward pass raised
    │   └── PredictorFailed    the remote predictor answered with an error, or with what cannot be the answer
    └── DeployError            the SDK's, root of what only it raises
        ├── EntityNotFound     no such project, function, task, run or secret in the store
        ├── EntityExists       there is one of that name already
        ├── StoreError         the store cannot be reached, read or written
        ├── IllegalTransition  a run cannot go from its state to the one asked for
        ├── TargetError        the target (this machine, a cluster) cannot do what was asked of it
        ├── RunFailed          a run that was waited for is ERROR, STOPPED or gone; the message has the reason
        ├── WaitTimeout        it was not ready in time
        └── InvokeError        the running server could not be asked, or answered with an error

An error is built from one sentence that a user may read: what was wrong, the value, what would be right. No error
knows a protocol; `protocols/status.py` maps each class to its HTTP and gRPC status. Messages never carry another
caller's data, a traceback or an exception's class name.
"""

from __future__ import annotations

_MAX_CHARACTERS = 1000
"""Of a message: some repeat a value of the caller's, which may have megabytes."""


class ModelServeError(Exception):
    """Root of the tree."""

    def __init__(self, message: str) -> None:
        if len(message) > _MAX_CHARACTERS:
            message = message[: _MAX_CHARACTERS - 1] + "…"
        super().__init__(message)
        self.message = message


class ConfigError(ModelServeError):
    """The server cannot start as it was told to."""


class LoadError(ConfigError):
    """The model cannot be loaded or cannot do the task."""


class InvalidRequest(ModelServeError):
    """The caller's mistake."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class RequestTooLarge(InvalidRequest):
    """Body bytes, number of texts or bytes of the answer over the limit."""


class BodyTimeout(InvalidRequest):
    """The body did not arrive within --request_timeout."""


class UnsupportedMedia(InvalidRequest):
    """Content type or content encoding that is not read here."""


class NotFound(ModelServeError):
    """No such route."""


class ModelNotFound(NotFound):
    """No such model or version."""


class MethodNotAllowed(ModelServeError):
    """The route exists, the HTTP method does not."""

    def __init__(self, message: str, *, allow: str = "") -> None:
        super().__init__(message)
        self.allow = allow


class NotSupported(ModelServeError):
    """The protocol knows it; this server or this model does not offer it."""


class _ComeBack(ModelServeError):
    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(_ComeBack):
    """The queue is full."""


class NotReady(_ComeBack):
    """Loading, draining or unloaded."""


class PredictorDown(NotReady):
    """The remote predictor cannot be reached, or is not ready. begun: it may have begun to compute."""

    def __init__(self, message: str, *, retry_after_s: int = 1, begun: bool = False) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.begun = begun


class RequestTimeout(ModelServeError):
    """The answer did not come within --request_timeout."""


class RequestCancelled(ModelServeError):
    """The caller disconnected."""


class InferenceFailed(ModelServeError):
    """A forward pass failed; the caller did nothing wrong."""


class PredictorFailed(InferenceFailed):
    """The remote predictor answered with an error, or with what cannot be the answer. of_input: one of the inputs that
    it was asked about together may be why."""

    def __init__(self, message: str, *, of_input: bool = False) -> None:
        super().__init__(message)
        self.of_input = of_input


class DeployError(ModelServeError):
    """Something of the SDK failed."""


class EntityNotFound(DeployError):
    """The store has no such entity."""


class EntityExists(DeployError):
    """The store has one already."""


class StoreError(DeployError):
    """The store cannot be reached, read or written."""


class IllegalTransition(DeployError):
    """A run cannot go from its state to the one that was asked for."""


class TargetError(DeployError):
    """A target cannot do what was asked of it."""


class TargetRefused(TargetError):
    """A cluster answered with an error. `status` is its HTTP status, `reason` the word of its API ("NotFound"),
    `managers` who owns the fields that could not be changed."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "", managers: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.managers = managers

    @property
    def is_passing(self) -> bool:
        """Whether the server may answer otherwise in a moment: it is busy, or is being changed itself."""
        return self.status in (429, 502, 503, 504) or (self.status == 500 and "typed patch" not in self.message)


class TargetUnreachable(TargetError):
    """A cluster does not answer."""


class RunFailed(DeployError):
    """A run that was waited for will not become ready."""


class WaitTimeout(DeployError):
    """A run was not ready in time."""


class InvokeError(DeployError):
    """A running server could not be asked, or answered with an error; `status` is its HTTP status, 0 without one;
    `timed_out`: it may still be at it."""

    def __init__(self, message: str, *, status: int = 0, timed_out: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.timed_out = timed_out
