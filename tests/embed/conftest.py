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

from micro_rm.configs.schema import BackboneConfig, Config, DataConfig, EmbedConfig, StoreConfig
from micro_rm.embed.backbone import TorchBackbone
from micro_rm.embed.chat import Renderer
from micro_rm.embed.encoder import Encoder, load_encoder
from micro_rm.embed.plan import Plan
from micro_rm.embed.planner import make_plan
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.sources.pair import Message, PreferencePair
from micro_rm.embed.stage import JobResult, run_job

SMALL_BINS = EmbedConfig(device="cpu", bin_tokens=256, shard_tokens=1000)

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


# Windows are shorter than the tests' sequences and soft-capping is strong: who ignores them, shows.
_WINDOW = {"sliding_window": 9}
_MIXED = {**_WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_GROUPED = {"num_key_value_heads": 2}
_DECODERS: dict[str, dict[str, Any]] = {
    "Llama": _GROUPED,
    "Qwen2": _GROUPED,
    "Qwen3": {**_GROUPED, "head_dim": 12},
    "Mistral": {**_GROUPED, **_WINDOW},
    "Mixtral": {**_GROUPED, **_WINDOW, "num_local_experts": 4},
    "Gemma2": {
        **_GROUPED,
        **_MIXED,
        "head_dim": 12,
        "query_pre_attn_scalar": 20,
        "attn_logit_softcapping": 2.0,
    },
    "Gemma3Text": {**_GROUPED, **_MIXED, "head_dim": 12, "query_pre_attn_scalar": 20},
    "GPTNeoX": {"rotary_pct": 0.5},
    "GPT2": {},
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "Bloom": {},
    "Falcon": {"new_decoder_architecture": False},
    "Mamba": {"state_size": 4, "num_attention_heads": None},
    "GPTNeo": {"attention_types": [[["global", "local", "global"], 1]], "window_size": 9},
    "Bert": {},
}


def _make_decoder(family: str, **changes: Any) -> Any:
    common = {
        "vocab_size": 200,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "init_std": 0.2,
    }
    renamed = getattr(transformers, f"{family}Config").attribute_map
    options = {**common, **_DECODERS[family], **changes}
    config = getattr(transformers, f"{family}Config")(
        **{renamed.get(name, name): value for name, value in options.items()}
    )
    config.pad_token_id = None  # its embedding would be zeros
    torch.manual_seed(7)
    model = getattr(transformers, f"{family}Model")(config)
    if getattr(config, "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")  # not every version's default caps
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def decoder() -> Callable[..., Any]:
    """``decoder(family, **settings)``: a fresh small random model, such as Llama or GPTNeoX."""
    return _make_decoder


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """``make_tokenizer(family, template=None)``: a fresh tokenizer, its template by name."""
    return _make_tokenizer


@pytest.fixture(scope="session")
def renderer() -> Callable[..., Renderer]:
    """``renderer(name, chat_template=None, **settings)`` for a template's name or gpt2, bert."""

    def make(name: str, chat_template: str | None = None, **changes: Any) -> Renderer:
        tokenizer = _make_tokenizer(name if name in SPECIAL else "llama", name)
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        return Renderer(tokenizer, BackboneConfig(name=name, **{"max_length": 256} | changes))

    return make


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
    """``backbone(name, side="right", share=None, **settings)``: a model, loaded once.

    By default prefixes are shared on the right side; rows are padded on the left without sharing.
    """
    loaded: dict[str, TorchBackbone] = {}

    def load(
        name: str, side: str = "right", share: bool | None = None, **changes: Any
    ) -> TorchBackbone:
        share = side == "right" if share is None else share
        key = repr((name, side, share, sorted(changes.items())))
        if key not in loaded:
            loaded[key] = TorchBackbone(
                backbone_path(name),
                settings(name, **changes),
                device="cpu",
                padding_side=side,
                share=share,
            )
        return loaded[key]

    return load


@pytest.fixture(scope="session")
def encoder(settings: Callable[..., BackboneConfig]) -> Callable[..., Encoder]:
    """``encoder(name, embed=None, **settings)``: a tiny backbone with tokenizer, loaded once."""
    loaded: dict[str, Encoder] = {}

    def load(name: str | Path, embed: EmbedConfig | None = None, **changes: Any) -> Encoder:
        key = repr((name, embed, sorted(changes.items())))
        if key not in loaded:
            loaded[key] = load_encoder(settings(name, **changes), embed or SMALL_BINS)
        return loaded[key]

    return load


@pytest.fixture(scope="session")
def relative_error() -> Callable[[np.ndarray, np.ndarray], float]:
    """Largest relative L2 error between the rows of two arrays."""

    def error(actual: np.ndarray, expected: np.ndarray) -> float:
        actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
        gap = np.linalg.norm(actual - expected, axis=-1)
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
                "prompt": f"Question {index // 2}: how far is the moon?",
                "chosen": f"About {index} km." + " It is far." * (index % 5),
                "rejected": f"Ask the sun, number {index}.",
                "attribute": ("brief", "long")[index % 2],
                "context": ("be brief", "use many words")[index % 2],
                "split": "test" if index % 8 < 2 else "train",
            }
            for index in range(number)
        ]

    return make


@pytest.fixture(scope="session")
def configure(settings: Callable[..., BackboneConfig]) -> Callable[..., Config]:
    """``configure(model, file, store, embed=None, data=None, **backbone)``: small bins and shards.

    The data set is called ``rows``.
    """

    def make(
        model: str | Path,
        file: str,
        store: Path,
        *,
        embed: EmbedConfig | None = None,
        data: DataConfig | None = None,
        **changes: Any,
    ) -> Config:
        return Config(
            data=data or DataConfig(name="rows", train=file),
            backbone=settings(model, **changes),
            store=StoreConfig(dir=str(store)),
            embed=embed or SMALL_BINS,
        )

    return make


@pytest.fixture(scope="session")
def plan(
    configure: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Config, Plan]]:
    """The same arguments as ``configure``; configuration and plan, made outside of the store."""

    def make(*arguments: Any, **options: Any) -> tuple[Config, Plan]:
        config = configure(*arguments, **options)
        encoder = load_encoder(config.backbone, config.embed)
        directory = tmp_path_factory.mktemp("plan")
        return config, make_plan(encoder, open_pairs(config.data), config, "job", directory)

    return make


@pytest.fixture(scope="session")
def embed(configure: Callable[..., Config]) -> Callable[..., JobResult]:
    """The same arguments as ``configure``; runs the job as the pipeline does."""

    def make(*arguments: Any, **options: Any) -> JobResult:
        config = configure(*arguments, **options)
        return run_job(
            config,
            open_pairs(config.data),
            "request",
            on_plan=lambda *_: None,
            progress=lambda *_: None,
            notify=lambda _: None,
        )

    return make
