"""Synthetic text: a seeded population of raters with opposed tastes judges everyday advice.

Every prompt gets six answers from a small grammar: the same advice, rewritten. An answer has a
position on each of three style axes (tone, form, means), and each axis has two raters, one at each
pole. A rater judges only pairs whose answers differ on its own axis, and always prefers its own
pole, whatever the answers do on the other axes.

What matters is who judges which pair. If both raters of an axis judged every pair, each label would
be a coin toss to a learner that sees neither rater nor context, and no mixture could be identified.
Therefore

* every pair is judged by exactly one rater;
* the rater depends on the topic: two raters are at home in a topic and give ``HOME_SHARE["train"]``
  of its judgements, the other four share the rest. So there is something to learn for a router that
  reads the prompt. Any two raters of different axes are at home together in exactly one topic;
* over all topics the raters are equally frequent, so no single reward can satisfy opposed raters;
* in the test split the home raters give only ``HOME_SHARE["test"]`` of the judgements, so that the
  context and not the topic decides. Its prompts and contexts do not occur in training;
* most pairs differ on one axis only, the others on two. For the former a head that mixes several
  tastes can be right for each of them, for the latter it may have to take sides.

Every choice is a hash of the seed and of its purpose, so all platforms produce the same data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, islice, product
from typing import TypeVar

from ...configs.data import DataConfig, SyntheticConfig
from . import synthetic_text as words
from .account import Account
from .pair import DataError, Message, PreferencePair, hash_fraction
from .synthetic_text import CONTEXTS, Topic


@dataclass(frozen=True)
class Rater:
    """A rater who prefers one pole (1 or -1) of one style axis; the name is that style."""

    name: str
    axis: str
    pole: int


RATERS: tuple[Rater, ...] = (
    Rater("playful", "tone", 1),
    Rater("formal", "tone", -1),
    Rater("story", "form", 1),
    Rater("steps", "form", -1),
    Rater("digital", "means", 1),
    Rater("traditional", "means", -1),
)
HOME_SHARE = {"train": 0.8, "test": 0.5}

T = TypeVar("T")
Style = tuple[str, str, str]  # tone, form and means, each named after the rater who prefers it
Key = tuple[int, str]  # seed and prompt, hashed into every choice about a prompt
# All styles, the corners of a cube with one dimension per axis.
CORNERS: tuple[Style, ...] = tuple(
    product(("playful", "formal"), ("story", "steps"), ("digital", "traditional"))
)
# The imperative and the past form of a verb, such as brown/browned.
INFLECTED = re.compile(r"(\S+)/(\S+)")


def read(config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """Stream the pairs of the configured population."""
    for pair in _population(config.synthetic, config.test_fraction):
        account.rows += 1
        yield pair


@lru_cache(maxsize=1)  # a run reads its pairs four times, and generation takes a second
def _population(settings: SyntheticConfig, test_fraction: float) -> list[PreferencePair]:
    return generate(
        seed=settings.seed,
        prompts=settings.prompts,
        test_fraction=test_fraction,
        noise=settings.noise,
    )


def generate(
    *,
    seed: int = 0,
    prompts: int = 320,
    pairs_per_prompt: int = 6,
    test_fraction: float = 0.25,
    noise: float = 0.0,
) -> list[PreferencePair]:
    """Generate distinct prompts with answers, and pairs that are judged by one rater each.

    Args:
        seed: Seed of texts and judgements.
        prompts: Number of prompts.
        pairs_per_prompt: Number of pairs per prompt.
        test_fraction: Share of the prompts in the test split.
        noise: Probability that a label is flipped; it changes no text and no other choice.

    Raises:
        DataError: The grammar has fewer prompts than asked for.
    """
    capacity = len(words.TOPICS) * min(len(t.asks) * len(t.subjects) for t in words.TOPICS)
    if not 1 <= prompts <= capacity:
        raise DataError(f"prompts: expected between 1 and {capacity}, found {prompts}")
    # Judgements that each rater is still due, as fractions. They are carried from prompt to prompt,
    # which keeps the shares exact over the whole data set.
    due = {
        split: {rater: hash_fraction(seed, "due", split, rater.name) for rater in RATERS}
        for split in HOME_SHARE
    }
    pairs: list[PreferencePair] = []
    planned = 0  # prompts of the topics so far
    for index, topic in enumerate(words.TOPICS):
        count = (prompts + index) // len(words.TOPICS)
        # Rounding the cumulated number makes the share right over all topics, not only in each.
        tests = round(test_fraction * (planned + count)) - round(test_fraction * planned)
        planned += count
        candidates = [
            (subject, ask.format(s=subject)) for subject in topic.subjects for ask in topic.asks
        ]
        candidates.sort(key=lambda item: hash_fraction(seed, "prompt", item[1]))
        for position, (subject, prompt) in enumerate(candidates[:count]):
            split = "test" if position < tests else "train"
            key = (seed, prompt)
            answers = _answers(topic, subject, key)
            judged = _judge(topic, split, list(answers), due[split], key)
            for rater, styles in islice(judged, pairs_per_prompt):
                first, second = (answers[style] for style in styles)
                erred = hash_fraction(*key, "noise", first, second) < noise
                pairs.append(
                    PreferencePair(
                        prompt=(Message("user", prompt),),
                        chosen=second if erred else first,
                        rejected=first if erred else second,
                        split=split,
                        source="synthetic",
                        attribute=rater.name,
                        context=_pick(CONTEXTS[rater.name][split], *key, "wish", first, second),
                        user=rater.name,
                    )
                )
    return pairs


def _judge(
    topic: Topic, split: str, styles: list[Style], due: dict[Rater, float], key: Key
) -> Iterator[tuple[Rater, tuple[Style, Style]]]:
    """Yield raters and the styles that each compares, the preferred one first.

    The next rater is the one who is due most, and compares two styles that differ least.
    """
    unused = list(combinations(styles, 2))
    while unused:
        for rater in RATERS:
            share, homes = HOME_SHARE[split], len(topic.homes)
            guest_share = (1 - share) / (len(RATERS) - homes)
            due[rater] += share / homes if rater.name in topic.homes else guest_share
        # Of unused pairs, those whose answers differ on the axis of a rater.
        differing = {
            rater: [pair for pair in unused if sum(rater.name in style for style in pair) == 1]
            for rater in RATERS
        }
        rater = max((rater for rater in RATERS if differing[rater]), key=due.__getitem__)
        due[rater] -= 1
        closest = min(len(set(one) - set(other)) for one, other in differing[rater])
        close = [pair for pair in differing[rater] if len(set(pair[0]) - set(pair[1])) == closest]
        one, other = _pick(close, *key, "pair", rater.name, len(unused))
        unused.remove((one, other))
        yield rater, ((one, other) if rater.name in one else (other, one))


def _answers(topic: Topic, subject: str, key: Key) -> dict[Style, str]:
    """Answers in all styles but two opposite corners, so each has two that differ on one axis."""
    all_actions = topic.subjects[subject]
    ranked = sorted(all_actions, key=lambda action: hash_fraction(*key, action))
    kept = ranked[: _pick((2, 3), *key, "length")]
    actions = [action for action in all_actions if action in kept]  # in their order
    omitted = _pick(CORNERS, *key, "corner")  # with its opposite
    return {
        style: _write(topic, subject, actions, style, key)
        for style in CORNERS
        if 0 < len(set(style) - set(omitted)) < len(style)
    }


def _write(topic: Topic, subject: str, actions: list[str], style: Style, key: Key) -> str:
    """One answer: a beginning in the tone, the actions in the form, the means, and an ending."""
    tone, form, means = style
    person, pronoun = _pick(words.PEOPLE[tone], *key, tone, "person")
    beginning = _pick(words.BEGINNINGS[form, tone], *key, style, "beginning").format(
        task=topic.task.format(s=subject), s=subject, person=person, Person=_capital(person)
    )
    if form == "steps":
        mark = _pick(words.STEP_MARKS, *key, "mark")
        lines = [_capital(re.sub(INFLECTED, r"\1", action)) for action in actions]
        body = "".join(f"\n{mark.format(n=n)}{line}." for n, line in enumerate(lines, 1)) + "\n\n"
    else:
        first, between, last = _pick(words.STORY_LINKS, *key, style, "links")
        links = [first, *[between] * (len(actions) - 2), last]
        past = [re.sub(INFLECTED, r"\2", action) for action in actions]
        parts = [link.format(p=pronoun) + part for link, part in zip(links, past, strict=True)]
        body = " " + "".join(parts) + ". "
    item = _pick(topic.digital if means == "digital" else topic.traditional, *key, means, "item")
    advice = _pick(words.MEANS[means], *key, means, "advice").format(item=item)
    remark = _pick(words.REMARKS[means], *key, means, "remark")
    ending = _pick(words.ENDINGS[form, tone], *key, style, "ending")
    return f"{beginning}{body}{remark} {advice} {ending}"


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _pick(options: Sequence[T], *key: object) -> T:
    """The option that the hash of a key selects."""
    return options[int(hash_fraction(*key) * len(options))]
