"""A reward function in TRL's convention, from text: needs torch, transformers and safetensors.

    import sys
    sys.path.insert(0, "path/to/this/directory")
    from reward_funcs import reward
    GRPOTrainer(..., reward_funcs=reward)            # the column "context" holds the wishes

``RoutedReward`` is the same as a class: another device, larger batches, weights and head rewards.
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
        """Rewards, weights and head rewards of N responses, each to its prompt under its wish.

        Raises ``ValueError`` for a text that is longer than what the heads were trained on.
        """
        wishes = [None] * len(prompts) if contexts is None else list(contexts)
        if not len(prompts) == len(responses) == len(wishes):
            raise ValueError("expected as many prompts as responses and contexts")
        wanted = [
            self._ids(_turns(prompt), response, wish, self.text["head_view"])
            for prompt, response, wish in zip(prompts, responses, wishes, strict=True)
        ]
        wanted += [
            self._ids(_turns(prompt), None, wish, self.text["router_view"])
            for prompt, wish in zip(prompts, wishes, strict=True)
        ]
        vectors = self._vectors(wanted)
        return self.heads(vectors[: len(prompts)], vectors[len(prompts) :])

    def _ids(self, turns: Turns, response: str | None, wish: str | None, view: str) -> tuple:
        """Token ids of a prompt with or without a response, as the heads were trained on them."""
        if view == "context" and wish:
            turns = [{"role": "user", "content": wish}]
        elif view == "ctx" and wish:
            first = next(place for place, turn in enumerate(turns) if turn["role"] == "user")
            words = self.text["wish"].format(wish, turns[first]["content"])
            turns = [*turns[:first], {"role": "user", "content": words}, *turns[first + 1 :]]
        asks = response is None and self.text["prompt_readout"] == "generation_prompt"
        single = len(turns) == 1
        if response is not None:
            turns = [*turns, {"role": "assistant", "content": response}]
        if self.text["templated"]:
            rendered = self._render(turns, asks)
        else:
            rendered = _plain(turns, single, asks)
        special = not self.text["templated"]
        ids = self.tokenizer(rendered, add_special_tokens=special, truncation=False)["input_ids"]
        ids = self._with_bos(list(ids))
        if not 0 < len(ids) <= self.text["max_length"]:
            raise ValueError(f"{len(ids)} tokens: expected 1 to {self.text['max_length']}")
        return tuple(ids)

    def _render(self, turns: Turns, asks: bool) -> str:
        try:  # the template in this directory prints the date of the run, whatever day it is
            return self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=asks
            )
        except TemplateError as error:
            raise ValueError(f"the chat template refuses a conversation: {error}") from error

    def _with_bos(self, ids: list[int]) -> list[int]:
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return ids
        start = next((place for place, token in enumerate(ids) if token != bos), len(ids))
        wanted = self.text["bos"] == "one" or (self.text["bos"] == "auto" and start > 0)
        return [bos] * wanted + ids[start:]

    @torch.inference_mode()
    def _vectors(self, sequences: list[tuple]) -> Tensor:
        """Vectors (N, D) on the CPU; a repeated sequence is computed once."""
        distinct = sorted(set(sequences), key=len)
        found = {}
        for start in range(0, len(distinct), self.batch_size):
            batch = distinct[start : start + self.batch_size]
            longest = max(map(len, batch))
            ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in batch])
            lengths = torch.tensor([len(row) for row in batch])
            mask = (torch.arange(longest)[None] < lengths[:, None]).long()
            inputs = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
            states = self.model(**inputs).last_hidden_state.cpu()
            for row, vector in zip(batch, self._read(states, mask, lengths), strict=True):
                found[row] = vector.float()
        return torch.stack([found[row] for row in sequences])

    def _read(self, states: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        if self.text["pooling"] == "last":
            return states[torch.arange(len(states)), lengths - 1]
        if self.text["pooling"] == "cls":
            return states[:, 0]
        means = (states.float() * mask[..., None]).sum(1) / lengths[:, None]
        return means.to(states.dtype)


def reward(
    prompts: Sequence[str | Turns], completions: Sequence[str | Turns], **columns: Any
) -> list[float]:
    """One reward per completion. ``columns["context"]`` holds the wishes, where there are any."""
    contexts, turns, responses = columns.get("context"), [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        said = (
            [{"role": "assistant", "content": completion}]
            if isinstance(completion, str)
            else completion
        )
        turns.append(_turns(prompt) + _turns(said[:-1]))
        responses.append(said[-1]["content"])
    return _default()(turns, responses, contexts).reward.tolist()


@lru_cache(maxsize=1)
def _default() -> RoutedReward:
    return RoutedReward()


def _turns(prompt: str | Turns) -> Turns:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": turn["role"], "content": turn["content"]} for turn in prompt]


def _plain(turns: Turns, single: bool, asks: bool) -> str:
    if single:
        return "\n\n".join(turn["content"] for turn in turns) + "\n\n" * asks
    lines = [f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns]
    return "\n\n".join(lines + ["Assistant:"] * asks)


def _load(directory: Path, dtype: str, device: str) -> tuple[Any, Any]:
    """Tokenizer and model. The configuration has a name of its own, so that nothing else loads it:
    as a classifier the backbone would answer with a random head."""
    settings = json.loads((directory / "backbone_config.json").read_text("utf-8"))
    config = transformers.CONFIG_MAPPING[settings["model_type"]].from_dict(settings)
    key = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    model = transformers.AutoModel.from_pretrained(
        directory, config=config, local_files_only=True, **{key: getattr(torch, dtype)}
    )
    if getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        directory, config=config, local_files_only=True
    )
    return tokenizer, model.to(device).eval()
