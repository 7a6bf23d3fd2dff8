"""Upload a store to the Hugging Face Hub and download one; both are verified in full."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..cache import native_head
from ..cache.schema import StoreError
from ..cache.verify import verify_store
from ..common.errors import require
from ..configs.share import ShareConfig

# The files of a store; plans, locks and temporary files are not uploaded.
FILES = ["manifest.json", "shards/*.h5", native_head.FILE]
TABLES = ["pairs/*.h5", "quarantine/*.jsonl"]


def push_store(store: Path, config: ShareConfig) -> str:
    """Verify and upload a store; returns the URL of the commit.

    Raises ``ConfigError`` if no repository is configured, ``StoreError`` if the store is damaged
    or the Hub refuses the upload.
    """
    from huggingface_hub import HfApi

    repo = _repository(config)
    _require_sound(store, f"nothing was uploaded; micro-rm verify {store} says more")
    api = HfApi()
    with _hub_errors(repo):
        api.create_repo(repo, repo_type="dataset", private=config.private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=store,
            allow_patterns=_patterns(config),
            commit_message="Store of micro-rm",
        )
    return str(commit.commit_url)


def pull_store(store: Path, config: ShareConfig) -> str:
    """Download a store into a directory without one and verify it; returns the commit hash.

    Raises ``ConfigError`` if no repository is configured, ``StoreError`` if there is a store
    already, the Hub refuses the download, or the files differ from the manifest.
    """
    from huggingface_hub import HfApi, snapshot_download

    repo = _repository(config)
    if (store / "manifest.json").exists():
        raise StoreError(f"{store}: there is a store already; give another directory as store.dir")
    with _hub_errors(repo):
        info = HfApi().dataset_info(repo, revision=config.revision)
        snapshot_download(
            repo,
            repo_type="dataset",
            revision=info.sha,
            local_dir=store,
            allow_patterns=_patterns(config),
        )
    shutil.rmtree(store / ".cache", ignore_errors=True)  # metadata of the download
    if not (store / "manifest.json").exists():
        raise StoreError(f"{repo}: no manifest.json, this is not a store of micro-rm")
    _require_sound(store, "it was changed behind the manifest's back, or not downloaded whole")
    return str(info.sha)


def _repository(config: ShareConfig) -> str:
    name = config.repo or ""
    require("/" in name, "share.repo", "a repository such as owner/name", config.repo)
    return name


def _patterns(config: ShareConfig) -> list[str]:
    return [*FILES, *(TABLES if config.tables else [])]


def _require_sound(store: Path, remedy: str) -> None:
    problems = verify_store(store).problems
    if problems:
        raise StoreError(f"{store}: {problems[0]} ({len(problems)} problems); {remedy}")


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """Turn errors of the Hub into ``StoreError``."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise StoreError(
            f"{repo}: the hub refuses or does not answer ({error}); check the name and the "
            "network, and log in with hf auth login or set HF_TOKEN"
        ) from error
