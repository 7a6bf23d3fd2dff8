"""Answer the main questions of a report in words, from its paired differences (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .rows import ORACLE, VALIDATED

ROUTED_BY_PROMPT = "micro_stage1"
REVERSED = {"better": "worse", "worse": "better"}


def answers(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Answer whether mixing, routing by prompt and routing by context help, and what is left.

    Returns:
        ``{"question", "standing", "answer", "detail"}`` per question. ``standing`` is ``better``,
        ``worse``, ``noise``, ``few`` if people, prompts or wordings are too few, or ``unknown`` if
        methods that the answer needs were not run; the detail then names them.
    """
    return [_mixing(report), _blind_routing(report), _routing(report), _headroom(report)]


def _mixing(report: Mapping[str, Any]) -> dict[str, str]:
    question = "Does mixing heads help on its own?"
    difference = _difference(report, "static_mixture", "single_bt")
    if difference is None:
        return _not_measured(question, "static_mixture and single_bt")
    return _comparison(
        report, question, difference, "K heads under one fixed set of weights", "one reward"
    )


def _blind_routing(report: Mapping[str, Any]) -> dict[str, str]:
    question = "Does routing by the prompt alone help?"
    difference = _difference(report, ROUTED_BY_PROMPT, "single_bt")
    if difference is None:
        return _not_measured(question, f"{ROUTED_BY_PROMPT} and single_bt")
    return _comparison(report, question, difference, "a router that reads no context", "one reward")


def _routing(report: Mapping[str, Any]) -> dict[str, str]:
    """Compare methods that read the context with one that does not, if possible the mixture."""
    question = "Does routing by the context help?"
    accuracy = _accuracies(report)
    names = [name for name, entry in report["methods"].items() if entry["given"] == "context"]
    if not names:
        return _not_measured(question, "micro, which needs pairs with a context")
    best = max(names, key=lambda name: accuracy[name])
    # From the most to the least direct comparison; the first that was measured is reported.
    pairs = [("micro", "static_mixture"), (best, "single_bt")]
    measured = (_difference(report, *pair) for pair in pairs)
    difference = next((item for item in measured if item), None)
    if difference is None:
        return _not_measured(question, "a method to compare with (single_bt or static_mixture)")
    base = {"static_mixture": "one fixed set of weights", "single_bt": "one reward"}
    what = "heads weighted by the context"
    answer = _comparison(report, question, difference, what, base[difference["against"]])
    if answer["standing"] == "better" and "wordings" not in difference["units"]:
        answer["answer"] += ", in these words; of others the test says nothing"
    if best != difference["method"]:
        answer["detail"] += f" {best} reads the context too and has {accuracy[best]:.3f}."
    return answer


def _headroom(report: Mapping[str, Any]) -> dict[str, str]:
    """Compare the best method with the oracle, the best single head of each attribute."""
    question = "How much is left to gain with these heads?"
    accuracy = _accuracies(report)
    oracles = [name for name in accuracy if name.endswith(ORACLE)]
    real = [name for name in accuracy if not name.endswith((ORACLE, VALIDATED))]
    if not oracles:
        return _not_measured(question, "a method of several heads")
    oracle = max(oracles, key=lambda name: accuracy[name])
    best = max(real, key=lambda name: accuracy[name])
    gap = accuracy[oracle] - accuracy[best]
    return {
        "question": question,
        "standing": "noise",
        "answer": f"{100 * max(gap, 0):.1f} points to the oracle",
        "detail": (
            f"The best head for every attribute, chosen on the test rows themselves, reaches "
            f"{accuracy[oracle]:.3f}: a bound, not a result. The best method, {best}, is given the "
            f"{report['methods'][best]['given']} and reaches {accuracy[best]:.3f}."
        ),
    }


def _accuracies(report: Mapping[str, Any]) -> dict[str, float]:
    return {name: entry["macro"]["accuracy"] for name, entry in report["methods"].items()}


def _difference(report: Mapping[str, Any], method: str, base: str) -> dict[str, Any] | None:
    """The paired difference ``method - base``; None if the report lacks the pair.

    The sign is reversed if the report compares the two in the other order.
    """
    for item in report["comparisons"]:
        if (item["method"], item["against"]) == (method, base):
            return dict(item)
        if (item["method"], item["against"]) == (base, method):
            return {
                **item,
                "method": method,
                "against": base,
                "difference": -item["difference"],
                "low": -item["high"],
                "high": -item["low"],
                "standing": REVERSED.get(item["standing"], item["standing"]),
            }
    return None


def _comparison(
    report: Mapping[str, Any], question: str, difference: Mapping[str, Any], what: str, base: str
) -> dict[str, str]:
    """Turn a paired difference into an answer; ``what`` and ``base`` describe the two methods."""
    accuracy, outcome = _accuracies(report), difference["standing"]
    method, against = difference["method"], difference["against"]
    points = f"{100 * abs(difference['difference']):.1f} points"
    answer = {
        "better": f"Yes, by {points}",
        "worse": f"No, it costs {points}",
        "noise": "No difference beyond noise",
        "few": f"Too few {' or '.join(difference['units'])} to say",
    }
    return {
        "question": question,
        "standing": outcome,
        "answer": answer[outcome],
        "detail": (
            f"{method} ({what}) has {accuracy[method]:.3f}, {against} ({base}) "
            f"{accuracy[against]:.3f}: {difference['difference']:+.3f}, "
            f"{report['confidence']:.0%} interval {difference['low']:+.3f} to "
            f"{difference['high']:+.3f}, adjusted p {difference['p_adjusted']:.2g}."
        ),
    }


def _not_measured(question: str, needs: str) -> dict[str, str]:
    detail = f"Needs {needs} in the same run."
    return {"question": question, "standing": "unknown", "answer": "Not measured", "detail": detail}
