"""A reward function for TRL. Needs torch, transformers and safetensors only.

    import sys
    sys.path.insert(0, "path/to/this/directory")
    from reward_funcs import reward
    GRPOTrainer(..., reward_funcs=reward)            # contexts in the column "context"

The class ``RoutedReward`` also returns head weights and head rewards, and lets you choose the
device and the batch size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from jinja2 import TemplateError
from modeling_routed import RoutedHeads, RoutedRewards  # pyright: ignore[reportMissingImports]
from torch import Tensor

HERE = Path(__file__).resolve().parent
Turns = list[dict[str, str]]


class RoutedReward:
    """A routed export: tokenizer, backbone, heads and router."""

    def __init__(
        self, directory: str | Path = HERE, *, device: str | None = None, batch_size: int = 16
    ) -> None:
        """Load an export.

        Args:
            directory: The export; by default the directory of this file.
            device: Device of the backbone; by default CUDA if available, otherwise the CPU.
            batch_size: Sequences per forward pass.
        """
        directory = Path(directory)
        self.heads = RoutedHeads.from_directory(directory)
        self.text = json.loads((directory / "micro_rm.json").read_text("utf-8"))["text"]
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.batch_size = batch_size
        self.tokenizer, self.model = _load(directory / "backbone", self.text["dtype"], self.device)

    def __call__(
        self,
        prompts: Sequence[str | Turns],
        responses: Sequence[str],
        contexts: Sequence[str | None] | None = None,
    ) -> RoutedRewards:
        """Score N responses.

        Args:
            prompts: The N prompts, each a text or a list of messages with role and content.
            responses: One response to each prompt.
            contexts: What the user of each prompt wants, in words; None or "" for no context.

        Returns:
            Rewards (N,), head weights (N, K) and head rewards (N, K).

        Raises:
            ValueError: The numbers of texts differ, a text has more tokens than the run allowed, or
                the chat template rejects the conversation.
        """
        contexts = [None] * len(prompts) if contexts is None else list(contexts)
        if not len(prompts) == len(responses) == len(contexts):
            raise ValueError(
                "expected equally many prompts, responses and contexts, found "
                f"{len(prompts)}, {len(responses)} and {len(contexts)}"
            )
        # One call for the inputs of heads and router, so that equal ones are embedded once.
        sequences = [
            self._ids(_turns(prompt), response, context, self.text["head_view"])
            for prompt, response, context in zip(prompts, responses, contexts, strict=True)
        ]
        sequences += [
            self._ids(_turns(prompt), None, context, self.text["router_view"])
            for prompt, context in zip(prompts, contexts, strict=True)
        ]
        vectors = self._vectors(sequences)
        return self.heads(vectors[: len(prompts)], vectors[len(prompts) :])

    def _ids(self, turns: Turns, response: str | None, context: str | None, view: str) -> tuple:
        """Token ids of a prompt, with or without a response, as in the run.

        ``view`` says how the context is used: ``context`` is the context instead of the prompt,
        ``ctx`` adds it to the first user turn, and any other view leaves it out.
        """
        if view == "context" and context:
            turns = [{"role": "user", "content": context}]
        elif view == "ctx" and context:
            first = next(index for index, turn in enumerate(turns) if turn["role"] == "user")
            content = self.text["context_form"].format(context, turns[first]["content"])
            turns = [*turns[:first], {"role": "user", "content": content}, *turns[first + 1 :]]
        # The run may have read prompts at the header of the answer that is to follow.
        add_header = response is None and self.text["prompt_readout"] == "generation_prompt"
        single = len(turns) == 1
        if response is not None:
            turns = [*turns, {"role": "assistant", "content": response}]
        if self.text["templated"]:
            rendered = self._render(turns, add_header)
        else:
            rendered = _plain(turns, single, add_header)
        special = not self.text["templated"]  # a chat template writes special tokens itself
        ids = self.tokenizer(rendered, add_special_tokens=special, truncation=False)["input_ids"]
        ids = self._with_bos(list(ids))
        if not 0 < len(ids) <= self.text["max_length"]:
            raise ValueError(
                f"expected a prompt and response of 1 to {self.text['max_length']} tokens, found "
                f"{len(ids)}; shorten the text"
            )
        return tuple(ids)

    def _render(self, turns: Turns, add_header: bool) -> str:
        # The exported template prints the date of the run, not today's.
        try:
            return self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_header
            )
        except TemplateError as error:
            raise ValueError(f"the chat template rejects a conversation: {error}") from error

    def _with_bos(self, ids: list[int]) -> list[int]:
        """Replace the leading BOS tokens by one or none, as in the run."""
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return ids
        start = next((index for index, token in enumerate(ids) if token != bos), len(ids))
        needed = self.text["bos"] == "one" or (self.text["bos"] == "auto" and start > 0)
        return [bos] * needed + ids[start:]

    @torch.inference_mode()
    def _vectors(self, sequences: list[tuple]) -> Tensor:
        """Embed sequences as vectors (N, D) on the CPU; equal sequences are computed once."""
        distinct = sorted(set(sequences), key=len)  # batches of similar lengths need little padding
        vectors = {}
        for start in range(0, len(distinct), self.batch_size):
            batch = distinct[start : start + self.batch_size]
            longest = max(map(len, batch))
            ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in batch])
            lengths = torch.tensor([len(row) for row in batch])
            mask = (torch.arange(longest)[None] < lengths[:, None]).long()
            inputs = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
            states = self.model(**inputs).last_hidden_state.cpu()
            for row, vector in zip(batch, self._pool(states, mask, lengths), strict=True):
                vectors[row] = vector.float()
        return torch.stack([vectors[row] for row in sequences])

    def _pool(self, states: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        """Pool hidden states (B, L, D) into vectors (B, D): last token, first token or mean."""
        if self.text["pooling"] == "last":
            return states[torch.arange(len(states)), lengths - 1]
        if self.text["pooling"] == "cls":
            return states[:, 0]
        means = (states.float() * mask[..., None]).sum(1) / lengths[:, None]
        return means.to(states.dtype)


def reward(
    prompts: Sequence[str | Turns], completions: Sequence[str | Turns], **columns: Any
) -> list[float]:
    """Reward function for TRL.

    Args:
        prompts: The prompts, each a text or a list of messages.
        completions: One completion per prompt, a text or a list of messages. Of several messages
            the last one is scored; the others count as part of the prompt.
        columns: Further columns of the data set. ``context`` holds the contexts, if there are any;
            all others are ignored.

    Returns:
        One reward per completion.
    """
    contexts, turns, responses = columns.get("context"), [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        answer = (
            [{"role": "assistant", "content": completion}]
            if isinstance(completion, str)
            else completion
        )
        turns.append(_turns(prompt) + _turns(answer[:-1]))
        responses.append(answer[-1]["content"])
    return _default()(turns, responses, contexts).reward.tolist()


@lru_cache(maxsize=1)
def _default() -> RoutedReward:
    return RoutedReward()


def _turns(prompt: str | Turns) -> Turns:
    """A prompt as messages; a text is one user message."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": turn["role"], "content": turn["content"]} for turn in prompt]


def _plain(turns: Turns, single: bool, add_header: bool) -> str:
    """Render without a chat template; each turn is prefixed with its speaker unless ``single``.

    ``add_header`` ends the text where an answer would begin.
    """
    if single:
        return "\n\n".join(turn["content"] for turn in turns) + "\n\n" * add_header
    lines = [f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns]
    return "\n\n".join(lines + ["Assistant:"] * add_header)


def _load(directory: Path, dtype: str, device: str) -> tuple[Any, Any]:
    """Load the tokenizer and the backbone.

    The configuration has a file name of its own, so that transformers does not load the backbone
    as a classifier with a randomly initialised head.
    """
    settings = json.loads((directory / "backbone_config.json").read_text("utf-8"))
    config = transformers.CONFIG_MAPPING[settings["model_type"]].from_dict(settings)
    key = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    model = transformers.AutoModel.from_pretrained(
        directory, config=config, local_files_only=True, **{key: getattr(torch, dtype)}
    )
    # The other attention implementations ignore soft-capping.
    if getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        directory, config=config, local_files_only=True
    )
    return tokenizer, model.to(device).eval()
