"""Single files from Hugging Face repositories, failing fast without a network.

huggingface-hub itself retries for most of a minute before it reports an unreachable host. Here one
short request goes first, repeated only if the hub answers that it is busy. A file in the cache is
used if the hub does not answer at once.
"""

from __future__ import annotations

import os
import re
import threading
import time
import warnings
from pathlib import Path

from fbnetv3._internal.errors import FetchError
from fbnetv3._internal.messages import one_line

from .weights import HubFile

_NUM_ATTEMPTS = 4
_PAUSE_S = 0.5
_RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
# How long the hub may take to say whether a file in the cache is the current one.
_CHECK_TIMEOUT_S = 0.5
# The hub explains a refusal in several sentences.
_MAX_REASON = 800


def find_hub_file(source: HubFile, revision: str, cache_dir: str | Path | None) -> Path | None:
    """Returns the file if it is in the hub's cache, else None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        source.repo, source.filename, cache_dir=cache_dir, revision=revision
    )
    return Path(found) if isinstance(found, str) else None


def download_hub_file(
    source: HubFile,
    revision: str,
    cache_dir: str | Path | None,
    *,
    timeout_s: float,
    manual_path: Path | None = None,
) -> tuple[Path, str]:
    """Returns the file in the hub's cache, downloaded if necessary, and its commit.

    A commit in the cache is returned without a request. The cached file of a branch or tag is used,
    with a warning, if the hub cannot be asked for a newer one.

    Args:
        source: the file.
        revision: branch, tag or commit.
        cache_dir: cache folder; None is the hub's default.
        timeout_s: seconds until a request fails.
        manual_path: where users can put the file by hand, for the error message.

    Raises:
        FetchError: the file cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    cached = find_hub_file(source, revision, cache_dir)
    if cached is not None and re.fullmatch("[0-9a-f]{40}", revision):
        return cached, revision
    # Read at each call; the library reads its variable only once, when imported.
    endpoint = os.environ.get("HF_ENDPOINT") or None
    url = hf_hub_url(source.repo, source.filename, revision=revision, endpoint=endpoint)
    try:
        if cached is None:
            _check_reachable(url, endpoint, timeout_s, _NUM_ATTEMPTS)
        else:
            _check_reachable(url, endpoint, _CHECK_TIMEOUT_S, 1)
        # By the revision's own name: the library then notes the commit of a branch for later
        # lookups without a network.
        path = hf_hub_download(
            source.repo,
            source.filename,
            revision=revision,
            cache_dir=cache_dir,
            etag_timeout=timeout_s,
            endpoint=endpoint,
        )
    # Not all errors of the library are OSErrors: those of its HTTP client have another base class.
    except Exception as error:
        reason = one_line(str(error), _MAX_REASON) or type(error).__name__
        if cached is not None:
            warnings.warn(
                f"{source.filename} of {source.repo} is from the cache; the hub was not asked for "
                f"a newer one: {reason}",
                stacklevel=4,
            )
            return cached, _commit_of(cached, source)
        answered = isinstance(error, HfHubHTTPError)
        hint = "check the repository and the token" if answered else "check the network"
        by_hand = f", or put the file at {manual_path}" if manual_path else ""
        raise FetchError(f"cannot fetch {url}: {reason.rstrip('.')}; {hint}{by_hand}") from error
    return Path(path), _commit_of(Path(path), source)


def _check_reachable(url: str, endpoint: str | None, timeout_s: float, num_attempts: int) -> None:
    """Asks the hub for a file's metadata, again if it is busy; raises its answer if it refuses.

    Raises:
        TimeoutError: it does not answer; also if looking up its address takes too long, for which
            the library has no limit.
    """
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError

    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            get_hf_file_metadata(url, timeout=timeout_s, endpoint=endpoint)
            answers.append(None)
        except Exception as error:  # raised below
            answers.append(error)

    for attempt in range(1, num_attempts + 1):
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(timeout_s)
        if not answers:
            raise TimeoutError(f"no answer within {timeout_s:g} s")
        error = answers.pop()
        if error is None:
            return
        busy = isinstance(error, HfHubHTTPError) and error.response.status_code in _RETRIED_STATUS
        if not busy or attempt == num_attempts:
            raise error
        time.sleep(_PAUSE_S * 2 ** (attempt - 1))


def _commit_of(path: Path, source: HubFile) -> str:
    """Returns the commit of a file in the hub's cache, from `snapshots/COMMIT/FILENAME`."""
    return path.parts[-2 - source.filename.count("/")]
