"""Tiny random backbones with tokenizers, and preference files, made once per session."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from micro_rm.cache.schema import sequence_key
from micro_rm.cache.writer import StoreLock, recover_store
from micro_rm.configs.schema import BackboneConfig, Config, DataConfig, EmbedConfig, StoreConfig
from micro_rm.embed.backbone import TorchBackbone
from micro_rm.embed.encoder import Encoder, load_encoder
from micro_rm.embed.planning import Pass
from micro_rm.embed.sources import load_pairs
from micro_rm.embed.sources.pair import Message, PreferencePair
from micro_rm.embed.stage import EmbeddingJob, plan_job, run_job

torch.set_num_threads(1)
transformers_logging.disable_progress_bar()

CORPUS = [
    "How far is the moon? The moon is 384,400 km away from the earth.",
    "And the sun? The sun is 149.6 million km away, said the assistant to the user.",
    "Write a short answer, please. Here is a long answer with many words and no lists.",
    "[criteria] be brief [context] Human: tell me a story. Assistant: once upon a time.",
    "system user assistant Today Date: 26 Jul 2024 You are a helpful assistant.",
]
HEADER = "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
ASK = "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
TURNS = (
    "{% for message in messages %}" + HEADER + "{{ message.content | trim }}<|eot_id|>{% endfor %}"
)
TEMPLATES = {
    "llama": "{{ bos_token }}" + TURNS + ASK,
    # Like Llama 3.2: the date of the caller, or else the clock's.
    "date_string": (
        "{{ bos_token }}{% if not date_string is defined %}"
        "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}<|eot_id|>"
        + TURNS
        + ASK
    ),
    "strftime_now": (
        "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\n"
        "Today Date: {{ strftime_now('%d %b %Y') }}<|eot_id|>" + TURNS + ASK
    ),
    # Like Gemma: no system turns.
    "no_system": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}" + TURNS + ASK
    ),
    "qwen2": (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
        "<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}
SPECIAL = {
    "llama": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "[PAD]"},
    "qwen2": {"eos_token": "<|im_end|>"},
    "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "bert": {
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
    },
}
PAD_ID = list(SPECIAL["llama"]).index("pad_token")
MARKS = {
    "llama": ["<|start_header_id|>", "<|end_header_id|>"],
    "qwen2": ["<|im_start|>"],
    "gpt2": [],
    "bert": [],
}


def _byte_level(family: str) -> Tokenizer:
    special = list(dict.fromkeys([*SPECIAL[family].values(), *MARKS[family]]))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if family == "llama":
        bos = SPECIAL["llama"]["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


def _word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=384, special_tokens=list(SPECIAL["bert"].values()), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    marks = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=marks
    )
    return tokenizer


def _make_tokenizer(family: str, template: str | None = None) -> PreTrainedTokenizerFast:
    inner = _word_piece() if family == "bert" else _byte_level(family)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **SPECIAL[family])
    tokenizer.chat_template = TEMPLATES.get(template or family)
    return tokenizer


def _make_model(family: str, vocabulary: int, *, labels: int = 0) -> Any:
    # A wide initialisation makes a wrong position or a missing mask show far above rounding.
    common = {"vocab_size": vocabulary, "initializer_range": 0.2}
    if family in ("llama", "qwen2"):
        kind = "Llama" if family == "llama" else "Qwen2"
        config = getattr(transformers, f"{kind}Config")(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            pad_token_id=PAD_ID if family == "llama" else None,
            **common,
        )
    elif family == "gpt2":
        kind = "GPT2"
        config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **common)
    else:
        kind = "Bert"
        config = transformers.BertConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            **common,
        )
    suffix = "Model"
    if labels:
        config.num_labels = labels
        suffix = "ForSequenceClassification"
    torch.manual_seed(7)
    model = getattr(transformers, kind + suffix)(config)
    # Padding has a state like any token: zeros would hide that it is read.
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.2)
    return model


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """``make_tokenizer(family, template=None)``: a fresh tokenizer, its template by name."""
    return _make_tokenizer


@pytest.fixture(scope="session")
def save_backbone() -> Callable[..., Path]:
    """``save_backbone(directory, family, template=None, labels=0)``: weights and tokenizer."""

    def save(directory: Path, family: str, template: str | None = None, labels: int = 0) -> Path:
        tokenizer = _make_tokenizer(family, template)
        tokenizer.save_pretrained(directory)
        _make_model(family, len(tokenizer), labels=labels).save_pretrained(directory)
        return directory

    return save


@pytest.fixture(scope="session")
def backbone_path(
    tmp_path_factory: pytest.TempPathFactory, save_backbone: Callable[..., Path]
) -> Callable[[str], Path]:
    """Directory of a tiny backbone: llama, qwen2, gpt2, bert, or llama-reward with a head."""
    made: dict[str, Path] = {}

    def path(name: str) -> Path:
        if name not in made:
            family, _, reward = name.partition("-")
            directory = tmp_path_factory.mktemp(name)
            made[name] = save_backbone(directory, family, labels=1 if reward else 0)
        return made[name]

    return path


@pytest.fixture(scope="session")
def settings(backbone_path: Callable[[str], Path]) -> Callable[..., BackboneConfig]:
    """``settings(model, **changes)``: float32 settings of a tiny backbone or a directory."""

    def make(model: str | Path, **changes: Any) -> BackboneConfig:
        directory = model if isinstance(model, Path) else backbone_path(model)
        defaults = BackboneConfig(name=str(directory), dtype="float32", max_length=256)
        return replace(defaults, **changes)

    return make


@pytest.fixture(scope="session")
def backbone(
    backbone_path: Callable[[str], Path], settings: Callable[..., BackboneConfig]
) -> Callable[..., TorchBackbone]:
    """``backbone(name, side="right", **settings)``: a loaded model, one per set of arguments."""
    loaded: dict[str, TorchBackbone] = {}

    def load(name: str, side: str = "right", **changes: Any) -> TorchBackbone:
        key = repr((name, side, sorted(changes.items())))
        if key not in loaded:
            config = settings(name, **changes)
            loaded[key] = TorchBackbone(
                backbone_path(name), config, device="cpu", padding_side=side
            )
        return loaded[key]

    return load


@pytest.fixture(scope="session")
def encoder(settings: Callable[..., BackboneConfig]) -> Callable[..., Encoder]:
    """``encoder(name, **settings)``: tokenizer and model of a tiny backbone, loaded once."""
    loaded: dict[str, Encoder] = {}

    def load(name: str, **changes: Any) -> Encoder:
        key = repr((name, sorted(changes.items())))
        if key not in loaded:
            loaded[key] = load_encoder(settings(name, **changes), "cpu")
        return loaded[key]

    return load


@pytest.fixture(scope="session")
def single() -> Callable[[Sequence[int]], Pass]:
    """A pass that reads out its own last token and nothing else."""

    def make(ids: Sequence[int]) -> Pass:
        array = np.asarray(ids, np.int32)
        return Pass(array, (len(array) - 1,), (sequence_key(array),))

    return make


@pytest.fixture(scope="session")
def relative_error() -> Callable[[np.ndarray, np.ndarray], float]:
    """Largest relative L2 error between the rows of two arrays."""

    def error(found: np.ndarray, expected: np.ndarray) -> float:
        found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        gap = np.linalg.norm(found - expected, axis=-1)
        return float(np.max(gap / np.linalg.norm(expected, axis=-1)))

    return error


@pytest.fixture(scope="session")
def make_pair() -> Callable[..., PreferencePair]:
    """``make_pair(prompt, chosen, rejected, **fields)``: a training pair of one user turn."""

    def make(
        prompt: str | tuple[Message, ...] = "How far is the moon?",
        chosen: str = "384,400 km.",
        rejected: str = "Very far.",
        **fields: Any,
    ) -> PreferencePair:
        turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
        return PreferencePair(
            turns, chosen, rejected, **({"split": "train", "source": "test"} | fields)
        )

    return make


@pytest.fixture(scope="session")
def write_rows() -> Callable[..., str]:
    """Write rows as .jsonl, .jsonl.gz or .parquet; a string row is a raw line. Returns the path."""

    def write(path: Path, rows: Sequence[dict[str, Any] | str]) -> str:
        if path.suffix == ".parquet":
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
            return str(path)
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        data = text.encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
        return str(path)

    return write


@pytest.fixture(scope="session")
def preference_rows() -> Callable[[int], list[dict[str, Any]]]:
    """``preference_rows(n)``: n explicit rows, a quarter of them test, in two attributes."""

    def make(number: int) -> list[dict[str, Any]]:
        return [
            {
                "prompt": f"Question {place // 2}: how far is the moon?",
                "chosen": f"About {place} km." + " It is far." * (place % 5),
                "rejected": f"Ask the sun, number {place}.",
                "attribute": ("brief", "long")[place % 2],
                "context": ("be brief", "use many words")[place % 2],
                "split": "test" if place % 8 < 2 else "train",
            }
            for place in range(number)
        ]

    return make


@pytest.fixture(scope="session")
def plan(settings: Callable[..., BackboneConfig]) -> Callable[..., tuple[Config, EmbeddingJob]]:
    """``plan(model, file, store, ...)``: configuration and planned job for a preference file."""

    def make(
        model: str | Path,
        file: str,
        store: Path,
        *,
        embed: EmbedConfig | None = None,
        data: DataConfig | None = None,
        **changes: Any,
    ) -> tuple[Config, EmbeddingJob]:
        config = Config(
            data=data or DataConfig(name="rows", train=file),
            backbone=settings(model, **changes),
            store=StoreConfig(dir=str(store)),
            embed=embed or EmbedConfig(device="cpu", batch_tokens=256),
        )
        return config, plan_job(config, load_pairs(config.data))

    return make


@pytest.fixture(scope="session")
def embed(plan: Callable[..., tuple[Config, EmbeddingJob]]) -> Callable[..., EmbeddingJob]:
    """The same arguments as ``plan``; runs the job as the pipeline does and returns it."""

    def make(model: str | Path, file: str, store: Path, **options: Any) -> EmbeddingJob:
        with StoreLock(store) as lock:
            recover_store(store)
            config, job = plan(model, file, store, **options)
            run_job(job, config, "request", lambda *_: None, lock)
        return job

    return make
