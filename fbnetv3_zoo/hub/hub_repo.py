"""Single files of Hugging Face repositories, without waiting where there is no network.

huggingface-hub itself tries for most of a minute before it says that a host is not reachable; here
one short question goes first, and nothing is asked about files that are here already.
"""

from __future__ import annotations

import os
from pathlib import Path

from fbnetv3._internal.errors import FetchError

from .weights import HubFile


def find_hub_file(source: HubFile, revision: str, cache_dir: str | Path | None) -> Path | None:
    """Returns the file if the hub's cache has it, else None."""
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
    place: Path | None = None,
) -> tuple[Path, str]:
    """Returns the file in the hub's cache, fetched if need be, and the commit it belongs to.

    Args:
        source: which file.
        revision: branch, tag or commit.
        cache_dir: hub cache; None is the hub's own.
        timeout_s: how long the server may take to answer.
        place: where the user may put the file by hand, for the error.

    Raises:
        FetchError: it cannot be fetched.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    # The hub's own variable, read at each call; the library reads it once, when imported.
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
    # Of the library's errors not all are OSError: its HTTP client's have a tree of their own.
    except Exception as error:
        answered = isinstance(error, HfHubHTTPError)
        hint = "check repository and token" if answered else "check the network"
        by_hand = f", or put the file at {place}" if place else ""
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise FetchError(f"cannot fetch {url}: {reason}; {hint}{by_hand}") from error
    return Path(path), commit or revision
