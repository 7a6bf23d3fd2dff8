"""Rows to pandas, which is optional."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..common.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def frame(content: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """A data frame of rows, or of columns by name.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise UserError("a data frame needs pandas; run pip install pandas") from error
    return pandas.DataFrame(content)
