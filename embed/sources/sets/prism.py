"""PRISM (arXiv:2404.16019): real people from 75 countries talk to models and score their answers.

In every turn the answer that the person went on with is chosen against each answer of that turn
with a lower score; the prompt is the conversation so far. The user is the person, the attribute the
kind of conversation, the wish what the person said before any conversation. Users, not prompts, are
held out: nobody is in both splits.

stated   the wish is the person's own instruction to an ideal model; the default
profile  the wish is how the person describes themselves
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ....configs.data import DataConfig
from ..account import Account
from ..conversation import RowError, clean_text
from ..files import Row
from ..pair import SAME_TEXT, Message, PreferencePair, hash_fraction
from ..published import Files
from ..ratings import finite_number
from ..upstream import Part, Published, Upstream

WISHES = {"stated": "system_string", "profile": "self_description"}


def convert(files: Files, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """The pairs of every turn of every conversation."""
    column = WISHES[files.variant]
    wishes = {row.get("user_id"): row.get(column) for _, row in files.rows("survey")}

    def parse(number: int, row: Row) -> Iterator[PreferencePair]:
        user = clean_text(row["user_id"], "user_id")
        if user not in wishes:
            raise RowError("user_id", f"{user} is not in the survey")
        attribute = clean_text(row["conversation_type"], "conversation_type").replace(" ", "-")
        held_out = hash_fraction("user", user) < config.test_fraction
        prompt: tuple[Message, ...] = ()
        for turn, (words, answers) in enumerate(_turns(row["conversation_history"])):
            field = f"conversation_history, turn {turn}"
            prompt = (*prompt, Message("user", clean_text(words, field)))
            better = [answer for answer in answers if answer["if_chosen"]]
            if len(better) != 1:
                raise RowError(field, f"expected one chosen answer, found {len(better)}")
            chosen = clean_text(better[0]["content"], field)
            for answer in answers:
                if answer is better[0]:
                    continue
                margin = _score(better[0], field) - _score(answer, field)
                if margin == 0:
                    account.ties[attribute] += 1
                    continue
                if margin < 0:
                    files.leave_out("the chosen answer has a lower score")
                    continue
                rejected = clean_text(answer["content"], field)
                if rejected == chosen:
                    raise RowError(field, SAME_TEXT)
                yield PreferencePair(
                    prompt=prompt,
                    chosen=chosen,
                    rejected=rejected,
                    split="test" if held_out else "train",
                    source=config.source,
                    attribute=attribute,
                    context=wishes[user] or None,
                    user=user,
                    margin=margin,
                    row=number,
                )
            prompt = (*prompt, Message("assistant", chosen))

    yield from files.pairs("conversations", parse)


def _turns(history: list[dict[str, Any]]) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """The user's words and the models' answers, turn by turn."""
    for number in sorted({item["turn"] for item in history}):
        items = [item for item in history if item["turn"] == number]
        users = [item["content"] for item in items if item["role"] == "user"]
        if len(users) != 1:
            raise RowError(f"conversation_history, turn {number}", "expected one user message")
        yield users[0], [item for item in items if item["role"] == "model"]


def _score(answer: dict[str, Any], field: str) -> float:
    return finite_number(answer["score"], field)


SOURCE = Published(
    name="prism",
    summary="scores of real people with profiles",
    upstream=Upstream(
        repo="HannahRoseKirk/prism-alignment",
        revision="18ab5cfb37456f4ec8cbc00212ce54cf7b1239f6",
        licence="CC-BY-4.0 (people's texts), CC-BY-NC-4.0 (models' texts)",
        parts=(
            Part(
                "survey",
                "train",
                1_500,
                subset="survey",
                columns=frozenset({"user_id", "system_string", "self_description"}),
            ),
            Part("conversations", "train", 8_011, subset="conversations"),
        ),
        columns=frozenset({"user_id", "conversation_type", "conversation_history"}),
        optional=None,
        terms="people's own words: do not try to identify them",
    ),
    variants=dict.fromkeys(WISHES, ("survey", "conversations")),
    convert=convert,
)
