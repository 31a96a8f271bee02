"""Single files from Hugging Face repositories, failing fast without a network.

huggingface-hub itself retries for most of a minute before it reports an unreachable host. Here one
short request goes first, and files in the cache need no request.
"""

from __future__ import annotations

import os
from pathlib import Path

from fbnetv3._internal.errors import FetchError

from .weights import HubFile


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

    Args:
        source: the file.
        revision: branch, tag or commit.
        cache_dir: cache folder; None is the hub's default.
        timeout_s: seconds until a request fails.
        manual_path: where users can put the file by hand, for the error message.

    Raises:
        FetchError: the file cannot be downloaded.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    # Read at each call; the library reads its variable only once, when imported.
    endpoint = os.environ.get("HF_ENDPOINT") or None
    url = hf_hub_url(source.repo, source.filename, revision=revision, endpoint=endpoint)
    try:
        commit = get_hf_file_metadata(url, timeout=timeout_s, endpoint=endpoint).commit_hash
        path = hf_hub_download(
            source.repo,
            source.filename,
            revision=commit or revision,
            cache_dir=cache_dir,
            etag_timeout=timeout_s,
            endpoint=endpoint,
        )
    # Not all errors of the library are OSErrors: those of its HTTP client have another base class.
    except Exception as error:
        answered = isinstance(error, HfHubHTTPError)
        hint = "check the repository and the token" if answered else "check the network"
        by_hand = f", or put the file at {manual_path}" if manual_path else ""
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise FetchError(f"cannot fetch {url}: {reason}; {hint}{by_hand}") from error
    return Path(path), commit or revision
