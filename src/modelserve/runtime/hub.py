"""Model files from the Hugging Face hub into Hugging Face's own cache, through huggingface_hub.

HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean there. Adds what that library
leaves open: bounded waits, checksums, progress over all files, errors in one sentence. Knows no task and no weights:
it is told which files to get. Blocks; runs in the load thread. Several processes may share the cache.
"""

from __future__ import annotations

import errno
import logging
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import httpx2
from huggingface_hub import HfApi, constants, get_token, hf_hub_download, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from modelserve.errors import LoadError
from modelserve.runtime.checksums import Checksum, is_verified, verify
from modelserve.runtime.weights import listed

log = logging.getLogger(__name__)

Pick = Callable[[Collection[str], Path], list[str]]
"""Which of these paths to get, given a directory with what there is already; asked again when there is more.
May raise LoadError."""

Progress = Callable[[float], None]
"""Told the fraction (0 to 1) of the bytes that are there."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PAUSES_S = (1.0, 2.0, 4.0)
"""Between tries to reach the hub, when there is nothing in the cache to fall back on."""

_ERRORS = (httpx2.HTTPError, OSError, ValueError, RuntimeError)
"""What huggingface_hub and hf_xet raise when a file does not come."""

_T = TypeVar("_T")


class _Listing(NamedTuple):
    """What the hub says of one commit: size and checksum of each file."""

    commit: str
    bytes: dict[str, int]
    checksums: dict[str, Checksum]


def snapshot(model_id: str, revision: str | None, *, small: Pick, large: Pick, progress: Progress) -> Path:
    """Directory of the cache that holds what `small` and then `large` pick; its name is the commit.

    The hub is asked what the revision is now. When it cannot be reached and the cache has the files, those are used,
    with a warning. A commit (40 hexadecimal digits) whose files are there and verified needs no hub at all. Raises
    LoadError.
    """
    revision = revision or constants.DEFAULT_REVISION
    cached = _cached(model_id, revision)
    if is_offline_mode():
        if cached is None:
            raise LoadError(
                f"{_at(model_id, revision)} is not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE "
                "or TRANSFORMERS_OFFLINE keeps this machine off the hub"
            )
        _whole(cached, model_id, large, "the hub may not be asked (HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE)")
        return cached
    if cached is not None and _COMMIT.fullmatch(revision) and _is_ready(cached, small, large):
        return cached
    try:
        listing = _list(model_id, revision, () if cached else _PAUSES_S)
    except LoadError as error:
        if cached is None or isinstance(error.__cause__, RevisionNotFoundError):
            raise
        _whole(cached, model_id, large, error.message)
        log.warning("%s; serving commit %s from the cache", error.message, cached.name)
        return cached
    return _download(model_id, revision, listing, small, large, progress)


def fetch_code(model_id: str, file: str) -> None:
    """The Python files of a repository whose `file` another model runs, at `main`, where transformers looks for them.

    What is in the cache is left as it is: code does not change under a model that has been served. Raises LoadError.
    """
    revision = constants.DEFAULT_REVISION
    if isinstance(try_to_load_from_cache(model_id, file, revision=revision), str) or is_offline_mode():
        return
    listing = _list(model_id, revision, _PAUSES_S)
    names = [name for name in listing.bytes if name.endswith(".py")]
    for name in names:
        directory = _get(model_id, revision, name).parents[name.count("/")]
    if names:
        checksums = {name: listing.checksums[name] for name in names}
        verify(directory, checksums, lambda name: _get(model_id, revision, name, again=True))


def _download(model_id: str, revision: str, listing: _Listing, small: Pick, large: Pick, progress: Progress) -> Path:
    if constants.CONFIG_NAME not in listing.bytes:
        raise LoadError(
            f"{_at(model_id, revision)} has no config.json, so it is no transformers model; "
            f"it holds {listed(listing.bytes)}"
        )
    # By the revision's name: this is what writes the cache's note of which commit the name means.
    directory = _get(model_id, revision, constants.CONFIG_NAME).parent
    commit = directory.name
    if commit != listing.commit:  # somebody pushed just now
        listing = _list(model_id, commit, _PAUSES_S)
    names = listing.bytes.keys()

    def check(arrived: list[str]) -> None:
        verify(
            directory,
            {name: listing.checksums[name] for name in arrived},
            lambda name: _get(model_id, commit, name, again=True),
        )

    first: list[str] = []
    while more := [name for name in small(names, directory) if name not in first]:
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(partial(_get, model_id, commit), more))
        check(more)
        first += more
    then = large(names, directory)
    todo = [name for name in then if not (directory / name).exists()]
    needed = sum(listing.bytes[name] for name in todo)
    _check_space(model_id, needed, directory)
    total = sum(listing.bytes[name] for name in {*first, *then}) or 1
    done = total - needed

    def add(n: float) -> None:
        nonlocal done
        done += int(n)
        progress(min(1.0, max(0.0, done / total)))

    add(0)
    for name in todo:  # one after the other, in this thread: the process may end at any byte
        _get(model_id, commit, name, add=add)
    check(then)
    progress(1.0)
    return directory


def _list(model_id: str, revision: str, pauses_s: Iterable[float]) -> _Listing:
    """What the hub has. Raises LoadError, caused by huggingface_hub's own error."""
    timeout_s = constants.HF_HUB_DOWNLOAD_TIMEOUT  # model_info would wait for ever
    ask = partial(HfApi().model_info, model_id, revision=revision, files_metadata=True, timeout=timeout_s)
    try:
        info = _patiently(ask, pauses_s)
    except _ERRORS as error:
        raise LoadError(_reason(error, model_id, revision)) from error
    listing = _Listing(info.sha or revision, {}, {})
    for file in info.siblings or ():
        listing.bytes[file.rfilename] = file.size or 0
        listing.checksums[file.rfilename] = (
            Checksum("sha256", file.lfs.sha256) if file.lfs else Checksum("git", file.blob_id or "")
        )
    return listing


def _get(
    model_id: str, revision: str, name: str, *, add: Callable[[float], None] | None = None, again: bool = False
) -> Path:
    """The file in the cache, downloaded when it is not there; a cut connection is taken up where it broke off.

    `add` is told of bytes as they come. Raises LoadError, caused by huggingface_hub's own error.
    """
    arrived = 0.0

    def count(n: float) -> None:
        nonlocal arrived
        arrived += n
        if add is not None:
            add(n)

    def get() -> str:
        if arrived:  # the try before was given up, with its bytes
            count(-arrived)
        return hf_hub_download(
            model_id, name, revision=revision, force_download=again, tqdm_class=cast(Any, _bar(count))
        )

    try:
        return Path(_patiently(get, _PAUSES_S))
    except _ERRORS as error:
        raise LoadError(_reason(error, model_id, revision, name)) from error


def _bar(count: Callable[[float], None]) -> type:
    """What huggingface_hub takes for a progress bar: it only counts."""

    class Bar:
        def __init__(self, *args: Any, initial: float = 0, **kwargs: Any) -> None:
            if initial:
                count(initial)

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, n: float | None = 1) -> None:
            count(n or 0)

        def ignore(self, *args: Any, **kwargs: Any) -> None:
            pass

        # xet tells bytes from the network besides bytes on the disk; the second are the file.
        update_transfer = set_postfix_str = set_transfer_postfix_str = close = refresh = ignore

    return Bar


def _cached(model_id: str, revision: str) -> Path | None:
    try:
        found = try_to_load_from_cache(model_id, constants.CONFIG_NAME, revision=revision)
    except HFValidationError as error:
        raise LoadError(_reason(error, model_id, revision)) from error
    return Path(found).parent if isinstance(found, str) else None


def _names(directory: Path) -> list[str]:
    return [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]


def _whole(directory: Path, model_id: str, large: Pick, why: str) -> None:
    """Raises LoadError when the cache holds only a part, which happens after a download that broke off."""
    try:
        large(_names(directory), directory)
    except LoadError as error:
        raise LoadError(f"the cache cannot serve {model_id}: {error.message}; and {why}") from error


def _is_ready(directory: Path, small: Pick, large: Pick) -> bool:
    """Whether everything is here and verified."""
    names = _names(directory)
    try:
        return is_verified(directory, {*small(names, directory), *large(names, directory)})
    except LoadError:
        return False


def _check_space(model_id: str, needed: int, directory: Path) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise LoadError(
            f"the disk is too full for {model_id}: {needed / 1e9:.1f} GB are needed in {constants.HF_HUB_CACHE}, "
            f"{free / 1e9:.1f} GB are free; make room, or set HF_HOME to another disk"
        )


def _patiently(function: Callable[[], _T], pauses_s: Iterable[float]) -> _T:
    """Call until it works, with these pauses, as long as the errors are ones that may pass."""
    for pause_s in pauses_s:
        try:
            return function()
        except (httpx2.HTTPError, LocalEntryNotFoundError) as error:
            if not _may_pass(error):
                raise
            log.warning("the hub does not answer (%s); trying again in %g s", _first_line(error), pause_s)
        time.sleep(pause_s)
    return function()


def _may_pass(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return isinstance(error, httpx2.TransportError)


def _reason(error: Exception, model_id: str, revision: str, name: str = "") -> str:
    """One sentence on why the hub did not give the model, or this file of it."""
    what = f"{name} of {_at(model_id, revision)}" if name else _at(model_id, revision)
    match error:
        case LocalEntryNotFoundError() if isinstance(error.__cause__, Exception):
            return _reason(error.__cause__, model_id, revision, name)
        case GatedRepoError():
            lack = "the token in HF_TOKEN has no access to it" if get_token() else "HF_TOKEN is not set"
            return f"{model_id} is gated and {lack}; ask for access on its page and set HF_TOKEN to a token that has it"
        case RevisionNotFoundError():
            return f"{model_id} has no revision {revision!r}; give a branch, a tag or a commit of it"
        case RepositoryNotFoundError():
            return (
                f"the hub ({constants.ENDPOINT}) has no model {model_id}, or it is private; correct --model_id, or set "
                "HF_TOKEN to a token that may read it"
            )
        case HFValidationError():
            return (
                f"--model_id {model_id!r} is no id of the hub, such as google-bert/bert-base-uncased; "
                "a local directory is given as --model_dir"
            )
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            return f"the hub ({constants.ENDPOINT}) refuses the token in HF_TOKEN ({error.response.status_code})"
        case HfHubHTTPError():
            return f"the hub ({constants.ENDPOINT}) answers {error.response.status_code} for {what}"
        case httpx2.TimeoutException():
            return f"the hub ({constants.ENDPOINT}) does not answer in time for {what}"
        case httpx2.HTTPError():
            return f"the hub ({constants.ENDPOINT}) cannot be reached for {what}: {_first_line(error)}"
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return (
                f"the disk of the cache is full ({constants.HF_HUB_CACHE}); make room, or set HF_HOME to another disk"
            )
        case OSError() if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            return f"the cache ({constants.HF_HUB_CACHE}) cannot be written; set HF_HOME to a directory that can"
        case _:
            return f"{what} could not be downloaded: {_first_line(error)}"


def _at(model_id: str, revision: str) -> str:
    return model_id if revision == constants.DEFAULT_REVISION else f"{model_id} at {revision}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
