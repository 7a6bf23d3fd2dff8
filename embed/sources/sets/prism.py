"""PRISM (arXiv:2404.16019): real people from 75 countries talk to models and score their answers.

In every turn the answer that the person went on with is chosen against each answer of that turn
with a lower score; the prompt is the conversation so far. The user is the person, the attribute the
kind of conversation, the wish what the person said before any conversation. Users, not prompts, are
held out: nobody is in both splits.

From the second turn on upstream finds the chosen answer by its text, so two answers that are the
same are both marked. They are no comparison; nor is an answer that upstream marks as empty.

stated   the wish is the person's own instruction to an ideal model; the default
profile  the wish is how the person describes themselves
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from ....configs.data import DataConfig
from ..account import Account
from ..conversation import RowError, clean_text
from ..files import Row
from ..pair import Message, PreferencePair, hash_fraction
from ..published import Files, Published
from ..ratings import finite_number
from ..upstream import Part, Upstream

WISHES = {"stated": "system_string", "profile": "self_description"}
EMPTY = "EMPTY STRING"  # what upstream writes where there was no text


class Answer(NamedTuple):
    """What a model said and the score that the person gave it."""

    text: str
    score: float


class Turn(NamedTuple):
    """What the person said, the answer that they went on with, and the others."""

    words: str
    chosen: Answer
    others: list[Answer]


def convert(files: Files, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """The pairs of every turn of every conversation."""
    # A limit is one of conversations: their people may be anywhere in the survey.
    survey = replace(files, config=replace(config, limit=None))
    wishes: dict[str, str | None] = {}

    def note(number: int, row: Row) -> list[PreferencePair]:
        words = row[WISHES[files.variant]]
        wish = clean_text(words, WISHES[files.variant]) if words else None
        wishes[clean_text(row["user_id"], "user_id")] = wish
        return []

    yield from survey.pairs("survey", note)

    def parse(number: int, row: Row) -> Iterator[PreferencePair]:
        user = clean_text(row["user_id"], "user_id")
        if user not in wishes:
            raise RowError("user_id", f"{user} is not in the survey")
        attribute = clean_text(row["conversation_type"], "conversation_type").replace(" ", "-")
        held_out = hash_fraction("user", user) < config.test_fraction
        prompt: tuple[Message, ...] = ()
        for turn in _turns(row["conversation_history"]):
            prompt = (*prompt, Message("user", turn.words))
            for answer in turn.others:
                margin = turn.chosen.score - answer.score
                if answer.text == EMPTY:
                    files.leave_out("an answer is empty")
                elif answer.text == turn.chosen.text:
                    files.leave_out("an answer is the same text as the chosen one")
                elif margin < 0:
                    files.leave_out("the chosen answer has a lower score")
                elif margin == 0:
                    account.ties[attribute] += 1
                else:
                    yield PreferencePair(
                        prompt=prompt,
                        chosen=turn.chosen.text,
                        rejected=answer.text,
                        split="test" if held_out else "train",
                        source=config.source,
                        attribute=attribute,
                        context=wishes[user],
                        user=user,
                        margin=margin,
                        row=number,
                    )
            prompt = (*prompt, Message("assistant", turn.chosen.text))

    yield from files.pairs("conversations", parse)


def _turns(history: list[dict[str, Any]]) -> list[Turn]:
    """The turns in their order; ``RowError`` unless each can be followed by the next."""
    turns = []
    for number in sorted({item["turn"] for item in history}):
        field = f"conversation_history, turn {number}"
        items = [item for item in history if item["turn"] == number]
        users = [item["content"] for item in items if item["role"] == "user"]
        if len(users) != 1:
            raise RowError(field, f"expected one user message, found {len(users)}")
        models = [item for item in items if item["role"] == "model"]
        answers = [
            Answer(clean_text(item["content"], field), finite_number(item["score"], field))
            for item in models
        ]
        marked = [place for place, item in enumerate(models) if item["if_chosen"]]
        texts = {answers[place].text for place in marked}
        if len(texts) != 1:
            raise RowError(field, f"expected one chosen answer, found {len(texts)}")
        words, chosen = clean_text(users[0], field), answers.pop(marked[0])
        if EMPTY in (words, chosen.text):
            raise RowError(field, "the user's message or the chosen answer is empty")
        turns.append(Turn(words, chosen, answers))
    return turns


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
