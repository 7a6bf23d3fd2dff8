"""From messages to token ids: chat template, date, BOS token, and the policy for overlong rows.

A vector depends on nothing but the token ids returned here. A prompt ends with its last turn
(``turn_end``) or with the header of the assistant's answer (``generation_prompt``); it never
contains a token of a response.
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
    """A sequence is too long; the message contains its length and the limit."""


class Conversation(NamedTuple):
    """A prompt, alone or with a response, and optionally with a context.

    Attributes:
        prompt: The turns before the response.
        response: The assistant's answer; None for the prompt alone.
        context: The user's stated wish for the answer.
        form: How the context enters the prompt, a key of ``FORMS``.
        rival: The other response of the pair, if both are to have the same prompt. Where the
            prompt is shortened, it is then cut for the longer response. No other effect.
    """

    prompt: tuple[Message, ...]
    response: str | None = None
    context: str | None = None
    form: str = "header"
    rival: str | None = None


# How a context {0} is combined with the first user turn {1} (``views.form``).
FORMS = {
    "header": "[criteria] {0}\n[context] {1}",
    "bare": "{0}\n\n{1}",
    "behind": "{1} {0}",
}


def with_context(
    prompt: tuple[Message, ...], context: str | None, form: str
) -> tuple[Message, ...]:
    """Put a context into the first user turn of a prompt; an empty one changes nothing.

    Example:
        >>> with_context((Message("user", "Boil an egg?"),), "Be brief.", "bare")[0].content
        'Be brief.\\n\\nBoil an egg?'
    """
    if not context:
        return prompt
    first = next(index for index, turn in enumerate(prompt) if turn.role == "user")
    text = FORMS[form].format(context, prompt[first].content)
    return (*prompt[:first], Message("user", text), *prompt[first + 1 :])


def _with_date(template: object, date: str) -> str | None:
    """The template with ``strftime_now`` pinned to one date; None if it does not use today's date.

    The function is shadowed by a macro, because transformers 5.23 passes only texts to templates.
    """
    if not isinstance(template, str) or "strftime_now" not in template:
        return None
    literal = json.dumps(date)
    return f"{{%- macro strftime_now(_format) -%}}{{{{ {literal} }}}}{{%- endmacro -%}}{template}"


class Renderer:
    """Turns conversations into token ids for one tokenizer and one set of backbone settings.

    Attributes:
        tokenizer: A transformers tokenizer.
        config: Settings of the backbone.
        templated: Whether the tokenizer's chat template is used, not the plain layout.

    Raises:
        ConfigError: The settings require a template or BOS token that the tokenizer lacks.
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
        self._dated_template = _with_date(getattr(tokenizer, "chat_template", None), config.date)
        self._segments = SegmentTokenizer(tokenizer)

    def template_hash(self) -> str:
        """sha256 of the template's source, or "plain" for the plain layout."""
        if not self.templated:
            return "plain"
        return hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()

    def probe_hash(self) -> str:
        """sha256 of the token ids of a fixed conversation.

        It covers what file hashes do not: settings, and the versions of the libraries.

        Raises ``ConfigError`` if the template refuses the conversation.
        """
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
        """Token ids (int32) of each conversation, without regard to the maximum length.

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
        """Apply ``backbone.overlong`` to a conversation whose token ids exceed the maximum length.

        Returns the ids (int32) unchanged if they fit, else truncated.

        Raises ``OverlongError`` if the policy is not to truncate, or if that is not enough.
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
            # Keep the token that ends a turn: it is where the vector is read out.
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
        # One call of the template renders many conversations, but all with or all without the
        # header of the assistant's answer.
        by_header: dict[bool, list[tuple[int, tuple[Message, ...]]]] = {False: [], True: []}
        for index, item in enumerate(conversations):
            header = item.response is None and self.config.prompt_readout == "generation_prompt"
            turns = with_context(item.prompt, item.context, item.form)
            if item.response is not None:
                turns = (*turns, Message("assistant", item.response))
            if self.templated:
                by_header[header].append((index, turns))
            else:
                texts[index] = _plain_text(turns, single=len(item.prompt) == 1, header=header)
        for header, group in by_header.items():
            if group:
                rendered = self._render([turns for _, turns in group], header=header)
                for (index, _), text in zip(group, rendered, strict=True):
                    texts[index] = text
        return texts

    def _render(self, conversations: list[tuple[Message, ...]], *, header: bool) -> list[str]:
        """Render conversations with the template; ``TemplateError`` if it fails for any reason."""
        try:
            return self.tokenizer.apply_chat_template(
                [[turn._asdict() for turn in turns] for turns in conversations],
                tokenize=False,
                add_generation_prompt=header,
                # Templates get today's date from this variable or from strftime_now; pin both.
                date_string=self.config.date,
                chat_template=self._dated_template,
            )
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            # An expression in a template may raise Python's own errors for some texts.
            raise TemplateError(f"{type(error).__name__}: {error}") from error

    def _with_bos(self, ids: np.ndarray) -> np.ndarray:
        """Replace any BOS tokens at the start by as many as ``backbone.bos`` says: none or one."""
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return ids
        count = 0
        while count < len(ids) and ids[count] == bos:
            count += 1
        expected = int(self.config.bos == "one" or (self.config.bos == "auto" and count > 0))
        if count == expected:
            return ids
        return np.concatenate([np.full(expected, bos, np.int32), ids[count:]])

    def _shorten_prompt(
        self, conversation: Conversation, ids: np.ndarray
    ) -> tuple[Message, ...] | None:
        """Cut the start of the prompt's longest messages until the sequence fits.

        The context is never cut. Returns None if the sequence cannot be made to fit.
        """
        # Tokens at the cut may change, so one round may not suffice.
        for _attempt in range(8):
            excess = len(ids) - self.config.token_limit
            if excess <= 0:
                return conversation.prompt
            prompt = list(conversation.prompt)
            longest = max(range(len(prompt)), key=lambda index: len(prompt[index].content))
            spans = self.tokenizer(
                prompt[longest].content, add_special_tokens=False, return_offsets_mapping=True
            )["offset_mapping"]
            if len(spans) < 2:
                return None
            cut = spans[min(excess, len(spans) - 1)][0]
            prompt[longest] = prompt[longest]._replace(content=prompt[longest].content[cut:])
            conversation = conversation._replace(prompt=tuple(prompt))
            ids = self.token_ids([conversation])[0]
        return None


def _plain_text(turns: Sequence[Message], *, single: bool, header: bool) -> str:
    """Join turns with blank lines, labelled by speaker if the prompt has several turns.

    ``header`` adds what precedes an answer.
    """
    if single:
        return "\n\n".join(turn.content for turn in turns) + "\n\n" * header
    lines = [f"{turn.role.capitalize()}: {turn.content}" for turn in turns]
    return "\n\n".join(lines + ["Assistant:"] * header)


__all__ = ["Conversation", "OverlongError", "Renderer", "TemplateError", "with_context"]
