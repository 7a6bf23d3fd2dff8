"""Messages to token ids: one template, one date, one BOS, and a policy for what is too long.

The read-out of a sequence is its last token, so what this module returns is all that the vector
depends on. A prompt ends where the last turn ends (``turn_end``) or with the header that asks for
an answer (``generation_prompt``); it never contains a token of a response.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jinja2 import TemplateError

from ..common.errors import ConfigError
from ..configs.schema import BackboneConfig
from .segments import SegmentTokenizer
from .sources.pair import Message

PROBE = (
    Message("user", "How far is the moon?"),
    Message("assistant", "384,400 km."),
    Message("user", "And the sun?"),
)
PROBE_RESPONSE = "149.6 million km."


class OverlongError(Exception):
    """A sequence does not fit; the message gives both lengths."""


class Conversation(NamedTuple):
    """A prompt alone (``response`` None) or with one response, and a wish in front of it.

    ``rival`` is the other response of the pair: where prompts are shortened, both responses get
    the same prompt, cut for the longer one. It has no other effect.
    """

    prompt: tuple[Message, ...]
    response: str | None = None
    wish: str | None = None
    form: str = "header"
    rival: str | None = None


# How a wish {0} enters a turn {1} (``views.form``).
FORMS = {
    "header": "[criteria] {0}\n[context] {1}",
    "bare": "{0}\n\n{1}",
    "behind": "{1} {0}",
}


def with_context(
    prompt: tuple[Message, ...], context: str | None, form: str
) -> tuple[Message, ...]:
    """The prompt with the wish in its first user turn; an empty wish changes nothing."""
    if not context:
        return prompt
    first = next(place for place, turn in enumerate(prompt) if turn.role == "user")
    words = prompt[first].content
    text = FORMS[form].format(context, words)
    return (*prompt[:first], Message("user", text), *prompt[first + 1 :])


def _with_date(template: object, date: str) -> str | None:
    """A template whose ``strftime_now`` says one date; None where it asks for none.

    A macro, because transformers 5.23 hands templates texts in place of functions.
    """
    if not isinstance(template, str) or "strftime_now" not in template:
        return None
    words = json.dumps(date)
    return f"{{%- macro strftime_now(_format) -%}}{{{{ {words} }}}}{{%- endmacro -%}}{template}"


class Renderer:
    """Turns conversations into token ids for one tokenizer and one set of backbone settings.

    Raises ``ConfigError`` at construction if the settings ask for something that the tokenizer
    does not have.
    """

    def __init__(self, tokenizer: Any, config: BackboneConfig) -> None:
        self.tokenizer = tokenizer
        self.config = config
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if config.template == "tokenizer" and not has_template:
            raise ConfigError(
                f"backbone.template: {config.name} brings no chat template; set it to plain"
            )
        if config.bos == "one" and tokenizer.bos_token_id is None:
            raise ConfigError(f"backbone.bos: {config.name} has no BOS token; set it to none")
        self.templated = has_template and config.template != "plain"
        self._pinned = _with_date(getattr(tokenizer, "chat_template", None), config.date)
        self._segments = SegmentTokenizer(tokenizer)

    def template_hash(self) -> str:
        """sha256 of the template's source, or the name of the plain layout."""
        if not self.templated:
            return "plain"
        return hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()

    def probe_hash(self) -> str:
        """sha256 of the token ids of one fixed conversation: catches what no file hash shows."""
        try:
            ids = self.token_ids([Conversation(PROBE), Conversation(PROBE, PROBE_RESPONSE)])
        except TemplateError as error:
            raise ConfigError(
                f"backbone.template: the chat template of {self.config.name} refuses even a plain "
                f"conversation ({error}); set it to plain, or take another backbone"
            ) from error
        digest = hashlib.sha256()
        for sequence in ids:
            digest.update(np.asarray(sequence, "<i4").tobytes() + b"|")
        return digest.hexdigest()

    def token_ids(self, conversations: Sequence[Conversation]) -> list[np.ndarray]:
        """Token ids (int32) per conversation, of any length.

        Raises ``TemplateError`` (jinja2) if the template refuses a conversation.
        """
        texts = self._texts(conversations)
        if self.templated:
            return [self._with_bos(ids) for ids in self._segments.token_ids(texts)]
        encoded = self.tokenizer(
            texts,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        return [self._with_bos(np.asarray(ids, np.int32)) for ids in encoded]

    def fit(self, conversation: Conversation, ids: np.ndarray) -> np.ndarray:
        """The ids if they fit, else what the policy for overlong rows makes of them.

        Raises ``OverlongError`` where the policy is to drop, or where nothing fits.
        """
        limit, policy = self.config.token_limit, self.config.overlong
        longer, longer_ids = conversation, ids
        if policy == "truncate_prompt" and conversation.rival is not None:
            rival = conversation._replace(response=conversation.rival)
            rival_ids = self.token_ids([rival])[0]
            if len(rival_ids) > len(ids):
                longer, longer_ids = rival, rival_ids
        if len(longer_ids) <= limit:
            return ids
        if policy == "truncate_end":
            closing = ids[-1:] if int(ids[-1]) in self.tokenizer.all_special_ids else ids[:0]
            return np.concatenate([ids[: limit - len(closing)], closing])
        if policy == "truncate_prompt":
            prompt = self._shorten_prompt(longer, longer_ids)
            if prompt is not None:
                return self.token_ids([conversation._replace(prompt=prompt)])[0]
        raise OverlongError(f"{len(longer_ids)} tokens, backbone.max_length is {limit}")

    def text(self, conversation: Conversation) -> str:
        """The rendered text of a conversation."""
        return self._texts([conversation])[0]

    def _texts(self, conversations: Sequence[Conversation]) -> list[str]:
        texts = [""] * len(conversations)
        waiting: dict[bool, list[tuple[int, tuple[Message, ...]]]] = {False: [], True: []}
        for place, item in enumerate(conversations):
            asks = item.response is None and self.config.prompt_readout == "generation_prompt"
            turns = with_context(item.prompt, item.wish, item.form)
            if item.response is not None:
                turns = (*turns, Message("assistant", item.response))
            if self.templated:
                waiting[asks].append((place, turns))
            else:
                texts[place] = _plain_text(turns, single=len(item.prompt) == 1, asks=asks)
        for asks, group in waiting.items():
            if group:
                rendered = self._render([turns for _, turns in group], asks=asks)
                for (place, _), text in zip(group, rendered, strict=True):
                    texts[place] = text
        return texts

    def _render(self, conversations: list[tuple[Message, ...]], *, asks: bool) -> list[str]:
        try:
            return self.tokenizer.apply_chat_template(
                [[turn._asdict() for turn in turns] for turns in conversations],
                tokenize=False,
                add_generation_prompt=asks,
                # Templates take today's date from this or from strftime_now; both are pinned.
                date_string=self.config.date,
                chat_template=self._pinned,
            )
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            # What a template computes with a text may fail in Python's ways as well.
            raise TemplateError(f"{type(error).__name__}: {error}") from error

    def _with_bos(self, ids: np.ndarray) -> np.ndarray:
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return ids
        start = 0
        while start < len(ids) and ids[start] == bos:
            start += 1
        wanted = self.config.bos == "one" or (self.config.bos == "auto" and start > 0)
        if start == wanted:
            return ids
        return np.concatenate([np.full(int(wanted), bos, np.int32), ids[start:]])

    def _shorten_prompt(
        self, conversation: Conversation, ids: np.ndarray
    ) -> tuple[Message, ...] | None:
        """The prompt with the start of its longest messages cut until the sequence fits, if it can.

        The wish in front of the prompt is never cut.
        """
        for _attempt in range(8):
            excess = len(ids) - self.config.token_limit
            if excess <= 0:
                return conversation.prompt
            prompt = list(conversation.prompt)
            place = max(range(len(prompt)), key=lambda i: len(prompt[i].content))
            spans = self.tokenizer(
                prompt[place].content, add_special_tokens=False, return_offsets_mapping=True
            )["offset_mapping"]
            if len(spans) < 2:
                return None
            cut = spans[min(excess, len(spans) - 1)][0]
            prompt[place] = prompt[place]._replace(content=prompt[place].content[cut:])
            conversation = conversation._replace(prompt=tuple(prompt))
            ids = self.token_ids([conversation])[0]
        return None


def _plain_text(turns: Sequence[Message], *, single: bool, asks: bool) -> str:
    """Turns separated by blank lines; with speakers as soon as the prompt has several turns."""
    if single:
        return "\n\n".join(turn.content for turn in turns) + "\n\n" * asks
    lines = [f"{turn.role.capitalize()}: {turn.content}" for turn in turns]
    return "\n\n".join(lines + ["Assistant:"] * asks)


__all__ = ["Conversation", "OverlongError", "Renderer", "TemplateError", "with_context"]
