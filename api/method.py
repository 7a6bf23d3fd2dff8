"""Methods of one's own, beside those of the package in tables, sweeps and reports."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, overload

import numpy as np

from ..common.errors import UserError
from ..heads.methods import load_method, method_names, register
from ..heads.methods.interface import (
    Examples,
    Given,
    Method,
    Need,
    Prediction,
    Problem,
    Trained,
    predict_reward,
)

OwnFit = Callable[[Problem, Mapping[str, Trained]], Trained | np.ndarray]
OwnPredict = Callable[[Trained, Examples], Prediction | np.ndarray]
Fit = TypeVar("Fit", bound=OwnFit)


@overload
def method(fit: Fit, /) -> Fit: ...


@overload
def method(
    *,
    name: str | None = None,
    summary: str | None = None,
    stage: Literal["train", "adapt"] | None = None,
    after: str | Sequence[str] = (),
    needs: Need | Sequence[Need] = (),
    predict: OwnPredict | None = None,
    given: Given = "prompt",
) -> Callable[[Fit], Fit]: ...


def method(
    fit: Any = None,
    /,
    *,
    name: str | None = None,
    summary: str | None = None,
    stage: Literal["train", "adapt"] | None = None,
    after: str | Sequence[str] = (),
    needs: Need | Sequence[Need] = (),
    predict: OwnPredict | None = None,
    given: Given = "prompt",
) -> Any:
    """Register a function as a method; from then on its name can be used like any other.

    The function receives a ``Problem`` (training pairs, and labelled pairs in stage 2) and a
    mapping of the methods that it comes after, fitted. It returns one of

    - a reward direction (D,), in the scaled features that the problem holds: a response's reward is
      its inner product with it;
    - a ``Trained`` with the parameters ``heads`` and ``router`` of a method that it builds on, such
      as ``dataclasses.replace(done["micro_stage1"], params=...)``;
    - any other ``Trained``, together with ``predict``.

    Args:
        fit: The function, when the decorator is used without arguments.
        name: Name in tables; by default that of the function.
        summary: One sentence for reports; by default the first line of the docstring.
        stage: train if it learns from plain pairs, adapt if from labelled ones too; by default
            adapt if it needs contexts or groups or comes after a method of that stage.
        after: Methods that are fitted before, whose results it is given.
        needs: What the data must have: contexts, groups, users, ratings or native_head.
        predict: Function of the ``Trained`` and ``Examples`` of N pairs. Returns margins, (N,) or
            (S, N) for S draws of labelled pairs, or a ``Prediction``.
        given: What it is given of a test pair beside its texts: nothing (prompt), its context or
            its group.

    Raises:
        ConfigError: The name is that of a method of the package, or ``after`` names an unknown one.

    Example:
        >>> @method
        ... def mean_difference(problem, done):
        ...     '''Reward along the mean difference of chosen and rejected.'''
        ...     return problem.train.rows.delta_NxD.mean(axis=0)
    """

    def register_fit(function: OwnFit) -> OwnFit:
        return _register(
            function, name, summary, stage, _names(after), _names(needs), predict, given
        )

    return register_fit if fit is None else register_fit(fit)


def _register(
    fit: OwnFit,
    name: str | None,
    summary: str | None,
    stage: Literal["train", "adapt"] | None,
    after: tuple[str, ...],
    needs: tuple[Any, ...],
    predict: OwnPredict | None,
    given: Given,
) -> OwnFit:
    own = name or getattr(fit, "__name__", type(fit).__name__)
    if stage is None:
        labelled = {"contexts", "groups"} & set(needs)
        builds_on = [load_method(one).stage for one in after if one in method_names()]
        stage = "adapt" if labelled or "adapt" in builds_on else "train"

    def fit_own(problem: Problem, done: Mapping[str, Trained]) -> Trained:
        return _trained(own, fit(problem, {one: done[one] for one in after}), problem.width)

    def predict_own(trained: Trained, examples: Examples) -> Prediction:
        return _prediction(own, trained, examples, predict)

    doc = (inspect.getdoc(fit) or "").partition("\n")[0]
    register(
        Method(
            own,
            summary or doc or "Defined outside of micro_rm.",
            stage=stage,
            fit=fit_own,
            predict=predict_own,
            after=after,
            needs=needs,
            given=given,
            linear=predict is None,
            source="\n".join(_source(one) for one in (fit, predict) if one is not None),
        )
    )
    return fit


def _trained(name: str, result: Any, width: int) -> Trained:
    if isinstance(result, Trained):
        return result
    head_D = np.asarray(result, np.float32)
    if head_D.shape != (width,):
        raise UserError(
            f"method {name}: expected a Trained or a reward direction ({width},), found "
            f"{head_D.shape or type(result).__name__}"
        )
    if not np.isfinite(head_D).all():
        raise UserError(f"method {name}: its reward direction holds NaN or infinity")
    return Trained({"head": head_D})


def _prediction(
    name: str, trained: Trained, examples: Examples, predict: OwnPredict | None
) -> Prediction:
    if predict is not None:
        result = predict(trained, examples)
        if isinstance(result, Prediction):
            return result
        margin_SxN = np.atleast_2d(np.asarray(result, np.float64))
        rows = examples.attribute_N.size
        if margin_SxN.ndim != 2 or margin_SxN.shape[1] != rows:
            raise UserError(
                f"method {name}: expected margins ({rows},) or (draws, {rows}) of predict, found "
                f"{np.shape(result)}"
            )
        return predict_reward(margin_SxN)
    if "head" in trained.params:
        delta_NxD = np.concatenate([np.asarray(rows.delta_NxD) for rows in examples.blocks()])
        return predict_reward((delta_NxD @ trained.params["head"])[None])
    if "heads" in trained.params and "router" in trained.params:
        from ..heads.methods.mixture import predict_routed

        return predict_routed(trained, examples)
    raise UserError(
        f"method {name}: expected params with head, or with heads and router, found "
        f"{', '.join(trained.params)}; give predict"
    )


def _names(given: str | Sequence[str]) -> tuple[Any, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _source(function: Any) -> str:
    """Text that changes when the function does; bytecode where there is no source."""
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        return repr(function) if code is None else f"{code.co_code.hex()} {code.co_consts!r}"
