"""PRISM (arXiv:2404.16019): people from 75 countries talk to models and score the answers.

In every turn, the answer that the person continued with is chosen, and each answer of the turn with
a lower score is rejected; the prompt is the conversation so far. The user is the person, the
attribute is the kind of conversation, and the context is what the person wrote in a survey before
all conversations. Users are held out, not prompts: nobody is in both splits.

From the second turn on, upstream marks the chosen answer by its text, so identical answers are both
marked. They make no pair; nor does an answer that upstream marks as empty.

stated   the context is the person's own instruction to an ideal model; the default
profile  the context is the person's description of themselves
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

CONTEXT_COLUMNS = {"stated": "system_string", "profile": "self_description"}
EMPTY = "EMPTY STRING"  # what upstream writes where there was no text


class RatedAnswer(NamedTuple):
    """An answer of a model, and the score that the person gave it."""

    text: str
    score: float


class Turn(NamedTuple):
    """A user message, the answer that the person continued with, and the other answers."""

    message: str
    chosen: RatedAnswer
    others: list[RatedAnswer]


def convert(files: Files, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """The pairs of every turn of every conversation."""
    # A limit applies to conversations; their users may be anywhere in the survey.
    survey = replace(files, config=replace(config, limit=None))
    contexts: dict[str, str | None] = {}

    def parse_survey(number: int, row: Row) -> list[PreferencePair]:
        column = CONTEXT_COLUMNS[files.variant]
        context = clean_text(row[column], column) if row[column] else None
        contexts[clean_text(row["user_id"], "user_id")] = context
        return []

    yield from survey.pairs("survey", parse_survey)  # no pairs, but it fills contexts

    def parse(number: int, row: Row) -> Iterator[PreferencePair]:
        user = clean_text(row["user_id"], "user_id")
        if user not in contexts:
            raise RowError("user_id", f"{user} is not in the survey")
        attribute = clean_text(row["conversation_type"], "conversation_type").replace(" ", "-")
        held_out = hash_fraction("user", user) < config.test_fraction
        prompt: tuple[Message, ...] = ()
        for turn in _turns(row["conversation_history"]):
            prompt = (*prompt, Message("user", turn.message))
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
                        context=contexts[user],
                        user=user,
                        margin=margin,
                        row=number,
                    )
            prompt = (*prompt, Message("assistant", turn.chosen.text))

    yield from files.pairs("conversations", parse)


def _turns(history: list[dict[str, Any]]) -> list[Turn]:
    """Turns of a conversation in order. Raises ``RowError`` if one has no unique chosen answer."""
    turns = []
    for number in sorted({item["turn"] for item in history}):
        field = f"conversation_history, turn {number}"
        items = [item for item in history if item["turn"] == number]
        users = [item["content"] for item in items if item["role"] == "user"]
        if len(users) != 1:
            raise RowError(field, f"expected one user message, found {len(users)}")
        models = [item for item in items if item["role"] == "model"]
        answers = [
            RatedAnswer(clean_text(item["content"], field), finite_number(item["score"], field))
            for item in models
        ]
        # Upstream marks by text: the marked answers must be one text, of which the first is taken.
        marked = [index for index, item in enumerate(models) if item["if_chosen"]]
        texts = {answers[index].text for index in marked}
        if len(texts) != 1:
            raise RowError(field, f"expected one chosen answer, found {len(texts)}")
        message, chosen = clean_text(users[0], field), answers.pop(marked[0])
        if EMPTY in (message, chosen.text):
            raise RowError(field, "the user's message or the chosen answer is empty")
        turns.append(Turn(message, chosen, answers))
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
    variants=dict.fromkeys(CONTEXT_COLUMNS, ("survey", "conversations")),
    convert=convert,
)
