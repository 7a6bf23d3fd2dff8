"""Heads under the weights of the group that a row belongs to: how several methods predict."""

from __future__ import annotations

import numpy as np

from ..model import margins
from .interface import Examples, Prediction, Rule, Trained, predict_heads


def predict_by_group(trained: Trained, examples: Examples, rule: Rule | None = None) -> Prediction:
    """Heads (D, K) under ``log_weights`` (S, G + 1, K) of every draw and group.

    The last entry of the middle axis answers for rows of no known group: ``NO_LABEL`` is -1, which
    indexes it. Without ``rule`` the settings of the method name it.
    """
    log_weights_SxG1xK = np.asarray(trained.params["log_weights"])
    return predict_heads(
        rule or trained.settings["rule"],
        np.asarray(margins(trained.params["heads"], examples.rows.delta_NxD)),
        log_weights_SxG1xK[:, examples.group_N],
    )
