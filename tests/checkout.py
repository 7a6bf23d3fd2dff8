"""Plugin of pytest: the checkout is the package ``micro_rm``, whatever its folder is called.

pytest would import the folder's ``__init__.py`` under the folder's name, which fails for a clone
named ``micro-rm``.
"""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Dir | None:
    """Collect the root as a plain directory."""
    return pytest.Dir.from_parent(parent, path=path) if path == parent.config.rootpath else None
