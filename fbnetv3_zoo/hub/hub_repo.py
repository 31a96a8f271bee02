"""Single files from Hugging Face repositories, failing fast without a network.

huggingface-hub itself retries for most of a minute before it reports an unreachable host. Here one
short request goes first, and files in the cache need no request.
"""

from __future__ import annotations

import os
import re
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from fbnetv3._internal.errors import FetchError
from fbnetv3._internal.files import sha256_of
from fbnetv3._internal.messages import one_line

from .cache import cache_dir as default_cache
from .cache import is_usable
from .weights import HubFile

# Seconds until the hub must have answered the first request; longer ones come once it has.
FIRST_ANSWER_S = 4.0
# The same if the file is in the cache, and the question is only whether there is a newer one.
_CHECK_S = 0.5
_NUM_ATTEMPTS = 3
_PAUSE_S = 0.5
_SERVER_ERRORS = range(500, 600)
_MAX_REASON = 600


@dataclass(frozen=True)
class Downloaded:
    """A file of a repository in the hub's cache.

    Attributes:
        path: the file.
        commit: the commit that it belongs to.
    """

    path: Path
    commit: str


def find_hub_file(source: HubFile, revision: str, cache_dir: str | Path | None) -> Path | None:
    """Returns the file if it is in the hub's cache, else None."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(
            source.repo, source.filename, cache_dir=_hub_cache(cache_dir), revision=revision
        )
    except OSError:  # a cache that this user cannot read
        return None
    return Path(found) if isinstance(found, str) else None


def _hub_cache(cache_dir: str | Path | None) -> str | Path | None:
    """Returns the folder of the hub's files, in our cache if this user cannot use the default."""
    from huggingface_hub import constants

    if cache_dir is not None or is_usable(Path(constants.HF_HUB_CACHE)):
        return cache_dir
    return default_cache() / "hub"


def _stored_token() -> bool | None:
    """Returns False, no token, where this user may not read the stored one; else None."""
    from huggingface_hub import get_token

    try:
        get_token()
    except OSError:
        return False
    return None


def stated_sha256(path: Path) -> str | None:
    """Returns the SHA-256 that the hub stated for a large file in its cache, None if unknown.

    The cache names the content of a file by what the hub sent as its ETag, which is the SHA-256 of
    files in large file storage.
    """
    name = path.resolve().name
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else None


def download_hub_file(
    source: HubFile,
    revision: str,
    cache_dir: str | Path | None,
    *,
    timeout_s: float,
    manual_path: Path | None = None,
) -> Downloaded:
    """Returns the file in the hub's cache, downloaded if necessary.

    If the hub does not answer, the file of the same revision in the cache is taken, with a warning.
    That of a commit is taken without a request.

    Args:
        source: the file.
        revision: branch, tag or commit.
        cache_dir: cache folder; None is the hub's default.
        timeout_s: seconds until a request fails.
        manual_path: where users can put the file by hand, for the error message.

    Raises:
        FetchError: the file cannot be downloaded.
        ValueError: its SHA-256 is not the one that the hub states.
    """
    cached = find_hub_file(source, revision, cache_dir)
    if cached is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        path = cached
    else:
        path = _current(source, revision, cache_dir, timeout_s, manual_path, cached)
    stated = stated_sha256(path)
    if stated is not None and sha256_of(path) != stated:
        raise ValueError(
            f"{path} does not have the SHA-256 {stated} that the hub states; delete the file and "
            "download it again"
        )
    snapshot = re.search(r"[/\\]snapshots[/\\]([0-9a-f]{40})[/\\]", str(path))
    return Downloaded(path, snapshot[1] if snapshot else revision)


def _current(
    source: HubFile,
    revision: str,
    cache_dir: str | Path | None,
    timeout_s: float,
    manual_path: Path | None,
    cached: Path | None,
) -> Path:
    """Returns the file of a revision that the hub has now, or `cached` if it does not answer."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    # Read at each call; the library reads its variable only once, when imported.
    endpoint = os.environ.get("HF_ENDPOINT") or None
    url = hf_hub_url(source.repo, source.filename, revision=revision, endpoint=endpoint)
    num_attempts, first_answer_s = (1, _CHECK_S) if cached else (_NUM_ATTEMPTS, FIRST_ANSWER_S)
    for attempt in range(1, num_attempts + 1):
        try:
            _check_answers(url, endpoint, min(timeout_s, first_answer_s))
            return _download(source, revision, cache_dir, timeout_s, endpoint)
        # Not all errors of the library are OSErrors: those of its HTTP client have another base.
        except Exception as error:
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            if status in _SERVER_ERRORS and attempt < num_attempts:
                time.sleep(_PAUSE_S * 2 ** (attempt - 1))
                continue
            reason = one_line(str(error), _MAX_REASON) or type(error).__name__
            if cached is not None and (status is None or status in _SERVER_ERRORS):
                warnings.warn(
                    f"{source.filename} of {source.repo} is from the cache; the hub could not be "
                    f"asked for a newer one: {reason}",
                    stacklevel=5,
                )
                return cached
            hint = "check the network" if status is None else "check the repository and the token"
            by_hand = f", or put the file at {manual_path}" if manual_path else ""
            raise FetchError(f"cannot fetch {url}: {reason}; {hint}{by_hand}") from error
    raise AssertionError("the last attempt returns or raises")


def _check_answers(url: str, endpoint: str | None, timeout_s: float) -> None:
    """Asks for a file's metadata; raises the hub's answer if it is an error.

    Raises:
        TimeoutError: there is none in time; the library itself does not limit the time for looking
            up the hub's address.
    """
    from huggingface_hub import get_hf_file_metadata

    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            # Its own limit ends later than ours, so that silence has one reason.
            get_hf_file_metadata(
                url, timeout=2 * timeout_s, endpoint=endpoint, token=_stored_token()
            )
            answers.append(None)
        except Exception as error:  # raised below
            answers.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout_s)
    if not answers:
        raise TimeoutError(f"no answer within {timeout_s:g} s")
    if answers[0] is not None:
        raise answers[0]


def _download(
    source: HubFile,
    revision: str,
    cache_dir: str | Path | None,
    timeout_s: float,
    endpoint: str | None,
) -> Path:
    from huggingface_hub import hf_hub_download

    # By the name of the revision, so that the cache can be asked for it later without a network.
    return Path(
        hf_hub_download(
            source.repo,
            source.filename,
            revision=revision,
            cache_dir=_hub_cache(cache_dir),
            etag_timeout=timeout_s,
            endpoint=endpoint,
            token=_stored_token(),
        )
    )
