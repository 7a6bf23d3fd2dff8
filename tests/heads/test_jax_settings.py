"""Quick compilation is for the run that asks for it, and for no other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import jax
import pytest

from micro_rm.heads import jax_settings
from micro_rm.heads.jax_settings import FUSION_FLAG, configure_jax


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment that says nothing; JAX is left as it was."""
    before = jax.config.values["jax_disable_most_optimizations"]
    monkeypatch.setattr(jax_settings, "FEW_OPTIMIZATIONS", False)
    monkeypatch.setenv("XLA_FLAGS", "--other=1")
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def test_compiled_programs_are_kept_in_the_cache_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = jax.config.values["jax_compilation_cache_dir"]
    try:
        for variable, parent in (("XDG_CACHE_HOME", "/caches"), ("HOME", "/home/ann/.cache")):
            monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
            monkeypatch.setenv(variable, parent.removesuffix("/.cache"))
            jax.config.update("jax_compilation_cache_dir", None)
            configure_jax("full")
            assert jax.config.values["jax_compilation_cache_dir"] == f"{parent}/micro_rm/xla"
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_full_run_after_a_quick_one_is_full() -> None:
    configure_jax("quick")
    assert jax.config.values["jax_disable_most_optimizations"]
    configure_jax("full")
    assert not jax.config.values["jax_disable_most_optimizations"]


@pytest.mark.parametrize(("version", "given"), [("0.10.2", 1), ("0.11.0", 0)])
def test_the_flag_is_given_once_and_only_to_the_version_that_knows_it(
    version: str, given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "__version__", version)
    configure_jax("quick")
    configure_jax("quick")
    flags = os.environ["XLA_FLAGS"].split()
    assert flags.count(FUSION_FLAG) == given and "--other=1" in flags
