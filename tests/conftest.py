"""Strict numerics for every test, and the checkout as package micro_rm even before an install."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# No test may depend on programs that another run has compiled, or write into the user's cache.
os.environ["JAX_COMPILATION_CACHE_DIR"] = ""

ROOT = Path(__file__).resolve().parent.parent

if importlib.util.find_spec("micro_rm") is None:
    _spec = importlib.util.spec_from_file_location(
        "micro_rm", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert _spec is not None and _spec.loader is not None
    _package = importlib.util.module_from_spec(_spec)
    sys.modules["micro_rm"] = _package
    _spec.loader.exec_module(_package)


@pytest.fixture(autouse=True)
def _strict_numerics() -> Iterator[None]:
    """Implicit rank promotion hides wrong axes: in tests it is an error."""
    import jax

    before = jax.config.jax_numpy_rank_promotion
    jax.config.update("jax_numpy_rank_promotion", "raise")
    yield
    jax.config.update("jax_numpy_rank_promotion", before)


@pytest.fixture
def repository() -> Path:
    """Root of the checkout."""
    return ROOT
