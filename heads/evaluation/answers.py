"""The questions that a report is opened for, answered in words from paired differences (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .rows import ORACLE, VALIDATED
from .verdict import standing

ROUTED = ("micro", "micro_kernel")
UNTOLD = "micro_stage1"


def answers(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """``[{"question", "standing", "answer", "detail"}]``; ``standing`` is better, worse or noise.

    A question whose methods were not run has the standing ``unknown`` and says which they are.
    """
    return [_mixing(report), _blind_routing(report), _routing(report), _headroom(report)]


def _mixing(report: Mapping[str, Any]) -> dict[str, str]:
    question = "Does mixing heads help on its own?"
    found = _difference(report, "static_mixture", "single_bt")
    if found is None:
        return _unknown(question, "static_mixture and single_bt")
    return _compared(
        report, question, found, "K heads under one fixed set of weights", "one reward"
    )


def _blind_routing(report: Mapping[str, Any]) -> dict[str, str]:
    question = "Does routing by the prompt alone help?"
    found = _difference(report, UNTOLD, "single_bt")
    if found is None:
        return _unknown(question, f"{UNTOLD} and single_bt")
    return _compared(report, question, found, "a router that reads no wish", "one reward")


def _routing(report: Mapping[str, Any]) -> dict[str, str]:
    """Wish-reading methods against what does not read it: the mixture if possible."""
    question = "Does routing by the stated wish help?"
    accuracy = _accuracies(report)
    names = [name for name in ROUTED if name in accuracy]
    if not names:
        return _unknown(question, "micro, which needs pairs with a stated wish")
    best = max(names, key=lambda name: accuracy[name])
    pairs = [("micro", "static_mixture"), (best, "static_mixture"), (best, "single_bt")]
    found = next((d for d in (_difference(report, *pair) for pair in pairs) if d), None)
    if found is None:
        return _unknown(question, "a method to compare with (single_bt or static_mixture)")
    base = {"static_mixture": "one fixed set of weights", "single_bt": "one reward"}
    what = "heads weighted by the wish"
    answer = _compared(report, question, found, what, base[found["against"]])
    span = report["methods"][found["method"]]["wordings"]
    if span:
        answer["detail"] += (
            f" With other wordings of the wishes {span['low']:.3f} to {span['high']:.3f}."
        )
        if answer["standing"] == "better" and span["low"] <= accuracy[found["against"]]:
            answer["answer"] += ", in these words; in others perhaps not"
    if best != found["method"]:
        answer["detail"] += f" {best} reads the wish too and has {accuracy[best]:.3f}."
    return answer


def _headroom(report: Mapping[str, Any]) -> dict[str, str]:
    """The best method without the attribute against the best single head of each attribute."""
    question = "How much is left to gain with these heads?"
    accuracy, told = _accuracies(report), report["methods"]
    bounds = [name for name in accuracy if name.endswith(ORACLE)]
    real = [name for name in accuracy if not name.endswith((ORACLE, VALIDATED))]
    if not bounds:
        return _unknown(question, "a method of several heads")
    bound = max(bounds, key=lambda name: accuracy[name])
    best = max(real, key=lambda name: accuracy[name])
    gap = accuracy[bound] - accuracy[best]
    return {
        "question": question,
        "standing": "noise",
        "answer": f"{100 * max(gap, 0):.1f} points to the oracle",
        "detail": (
            f"The best head for every attribute, chosen on the test rows themselves, reaches "
            f"{accuracy[bound]:.3f}: a bound, not a result. The best method, {best}, is told the "
            f"{told[best]['told']} and reaches {accuracy[best]:.3f}."
        ),
    }


def _accuracies(report: Mapping[str, Any]) -> dict[str, float]:
    return {name: entry["macro"]["accuracy"] for name, entry in report["methods"].items()}


def _difference(report: Mapping[str, Any], method: str, base: str) -> dict[str, Any] | None:
    """The paired difference of two methods, turned round if the report has it the other way."""
    for item in report["comparisons"]:
        if (item["method"], item["against"]) == (method, base):
            return dict(item)
        if (item["method"], item["against"]) == (base, method):
            return {
                "method": method,
                "against": base,
                "difference": -item["difference"],
                "low": -item["high"],
                "high": -item["low"],
            }
    return None


def _compared(
    report: Mapping[str, Any], question: str, found: Mapping[str, Any], what: str, base: str
) -> dict[str, str]:
    accuracy, outcome = _accuracies(report), standing(found)
    points = f"{100 * abs(found['difference']):.1f} points"
    said = {
        "better": f"Yes, by {points}",
        "worse": f"No, it costs {points}",
        "noise": "No difference beyond noise",
    }
    return {
        "question": question,
        "standing": outcome,
        "answer": said[outcome],
        "detail": (
            f"{found['method']} ({what}) has {accuracy[found['method']]:.3f}, {found['against']} "
            f"({base}) {accuracy[found['against']]:.3f}: {found['difference']:+.3f}, "
            f"{report['confidence']:.0%} interval {found['low']:+.3f} to {found['high']:+.3f}."
        ),
    }


def _unknown(question: str, needs: str) -> dict[str, str]:
    detail = f"Needs {needs} in the same run."
    return {"question": question, "standing": "unknown", "answer": "Not measured", "detail": detail}
