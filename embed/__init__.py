"""From text to a store of vectors; call the package itself to do it: ``micro_rm.embed(...)``."""

from __future__ import annotations

import sys
from inspect import Signature, signature
from types import ModuleType
from typing import Any


class _EmbedPackage(ModuleType):
    """The package, callable: its name is that of the function that users expect."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from ..api.embedding import embed

        return embed(*args, **kwargs)

    @property
    def __signature__(self) -> Signature:
        from ..api.embedding import embed

        return signature(embed)


sys.modules[__name__].__class__ = _EmbedPackage
