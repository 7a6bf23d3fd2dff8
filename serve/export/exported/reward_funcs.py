"""A reward function for TRL. Needs torch, transformers and safetensors only.

    import sys
    sys.path.insert(0, "path/to/this/directory")
    from reward_funcs import reward
    GRPOTrainer(..., reward_funcs=reward)            # contexts in the column "context"

``RoutedReward`` is the same as a class, with a choice of device and batch size, and also returns
head weights and the rewards of the heads.
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
    """The backbone with its tokenizer, heads and router of a routed export."""

    def __init__(
        self, directory: str | Path = HERE, *, device: str | None = None, batch_size: int = 16
    ) -> None:
        """Load an export onto a device, by default CUDA if available.

        ``batch_size`` is the number of sequences per forward pass.
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
        """Score N responses, each to its own prompt and context (the user's stated wish).

        Raises ``ValueError`` for texts of more tokens than the run allowed.
        """
        contexts = [None] * len(prompts) if contexts is None else list(contexts)
        if not len(prompts) == len(responses) == len(contexts):
            raise ValueError("expected as many prompts as responses and contexts")
        # First what the heads read, then what the router reads, in one pass over the backbone.
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
        """Token ids of a prompt with or without a response, as in the run.

        ``view`` says how the context enters: ``context`` replaces the prompt by it, ``ctx`` puts it
        into the first user turn, and any other view leaves it out.
        """
        if view == "context" and context:
            turns = [{"role": "user", "content": context}]
        elif view == "ctx" and context:
            first = next(index for index, turn in enumerate(turns) if turn["role"] == "user")
            content = self.text["context_form"].format(context, turns[first]["content"])
            turns = [*turns[:first], {"role": "user", "content": content}, *turns[first + 1 :]]
        # A prompt alone may end with the header of the answer, depending on its read-out.
        asks = response is None and self.text["prompt_readout"] == "generation_prompt"
        single = len(turns) == 1
        if response is not None:
            turns = [*turns, {"role": "assistant", "content": response}]
        if self.text["templated"]:
            rendered = self._render(turns, asks)
        else:
            rendered = _plain(turns, single, asks)
        special = not self.text["templated"]  # a chat template writes its special tokens itself
        ids = self.tokenizer(rendered, add_special_tokens=special, truncation=False)["input_ids"]
        ids = self._with_bos(list(ids))
        if not 0 < len(ids) <= self.text["max_length"]:
            raise ValueError(f"{len(ids)} tokens: expected 1 to {self.text['max_length']}")
        return tuple(ids)

    def _render(self, turns: Turns, asks: bool) -> str:
        try:  # the exported template prints the date of the run, not today's
            return self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=asks
            )
        except TemplateError as error:
            raise ValueError(f"the chat template refuses a conversation: {error}") from error

    def _with_bos(self, ids: list[int]) -> list[int]:
        """Reduce the leading BOS tokens to one or none, as in the run."""
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return ids
        start = next((index for index, token in enumerate(ids) if token != bos), len(ids))
        needed = self.text["bos"] == "one" or (self.text["bos"] == "auto" and start > 0)
        return [bos] * needed + ids[start:]

    @torch.inference_mode()
    def _vectors(self, sequences: list[tuple]) -> Tensor:
        """Embed sequences as (N, D) vectors on the CPU, repeated ones once."""
        distinct = sorted(set(sequences), key=len)  # similar lengths share a batch: little padding
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
        """Pool hidden states (B, L, D) to vectors (B, D): last token, first token or mean."""
        if self.text["pooling"] == "last":
            return states[torch.arange(len(states)), lengths - 1]
        if self.text["pooling"] == "cls":
            return states[:, 0]
        means = (states.float() * mask[..., None]).sum(1) / lengths[:, None]
        return means.to(states.dtype)


def reward(
    prompts: Sequence[str | Turns], completions: Sequence[str | Turns], **columns: Any
) -> list[float]:
    """Return one reward per completion, as TRL expects.

    ``columns["context"]`` holds the contexts, where there are any; other columns are ignored. Of a
    completion with several turns the last one is scored.
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
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": turn["role"], "content": turn["content"]} for turn in prompt]


def _plain(turns: Turns, single: bool, asks: bool) -> str:
    """Render without a chat template; speakers are named if the prompt has several turns."""
    if single:
        return "\n\n".join(turn["content"] for turn in turns) + "\n\n" * asks
    lines = [f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns]
    return "\n\n".join(lines + ["Assistant:"] * asks)


def _load(directory: Path, dtype: str, device: str) -> tuple[Any, Any]:
    """Load tokenizer and model.

    The configuration has a file name of its own, so that nothing loads the backbone as a
    classifier, which would return rewards of a random head.
    """
    settings = json.loads((directory / "backbone_config.json").read_text("utf-8"))
    config = transformers.CONFIG_MAPPING[settings["model_type"]].from_dict(settings)
    key = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    model = transformers.AutoModel.from_pretrained(
        directory, config=config, local_files_only=True, **{key: getattr(torch, dtype)}
    )
    # Other implementations of attention ignore soft-capping.
    if getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        directory, config=config, local_files_only=True
    )
    return tokenizer, model.to(device).eval()
