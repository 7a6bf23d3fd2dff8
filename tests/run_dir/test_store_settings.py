"""Automatic settings follow the store that is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from micro_rm.configs.schema import Config, StoreConfig
from micro_rm.run_dir.store_settings import kept_dtype, resolve_from_store
from micro_rm.tests.cache.stores import make_store


def test_an_automatic_dtype_is_that_of_the_store_and_is_told(tmp_path: Path) -> None:
    asked = Config(store=StoreConfig(dir=str(tmp_path)))
    assert resolve_from_store(asked) == asked and kept_dtype(asked, asked) == ""
    make_store(tmp_path, (2,), "bfloat16")
    followed = resolve_from_store(asked)
    assert (followed.backbone.dtype, followed.backbone.max_length) == ("bfloat16", 4096)
    assert kept_dtype(asked, followed) == "backbone.dtype auto keeps the store's bfloat16"
    said = replace(asked, backbone=replace(asked.backbone, dtype="bfloat16"))
    assert kept_dtype(said, resolve_from_store(said)) == ""
