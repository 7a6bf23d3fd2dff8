"""Tiny random models and tokenizers of every family, with chat templates."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from micro_rm.configs.schema import BackboneConfig
from micro_rm.embed.chat import Renderer

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


def _configuration(kind: str, options: dict[str, Any]) -> Any:
    """``kind``'s configuration, whose options may have the usual names."""
    made = getattr(transformers, f"{kind}Config")
    return made(**{made.attribute_map.get(name, name): value for name, value in options.items()})


def _make_model(family: str, vocabulary: int, *, labels: int = 0) -> Any:
    options: dict[str, Any] = {**_SIZES, "vocab_size": vocabulary, "num_hidden_layers": 2}
    if family in ("llama", "qwen2"):
        options |= {"num_key_value_heads": 2, "pad_token_id": PAD_ID if family == "llama" else None}
    elif family == "gpt2":
        del options["intermediate_size"]
    kind = {"llama": "Llama", "qwen2": "Qwen2", "gpt2": "GPT2", "bert": "Bert"}[family]
    config = _configuration(kind, options)
    if labels:
        config.num_labels = labels
    torch.manual_seed(7)
    suffix = "ForSequenceClassification" if labels else "Model"
    model = getattr(transformers, kind + suffix)(config)
    # Padding has a state like any token: zeros would hide that it is read.
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.2)
    return model


# A wide initialisation makes a wrong position or a missing mask show far above rounding.
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
# Windows are shorter than the tests' sequences and soft-capping is strong: who ignores them, shows.
_WINDOW = {"sliding_window": 9}
_MIXED = {**_WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_GROUPED = {"num_key_value_heads": 2}
_GEMMA = {**_GROUPED, **_MIXED, "head_dim": 12, "query_pre_attn_scalar": 20}
_DECODERS: dict[str, dict[str, Any]] = {
    "Llama": _GROUPED,
    "Qwen2": _GROUPED,
    "Qwen3": {**_GROUPED, "head_dim": 12},
    "Mistral": {**_GROUPED, **_WINDOW},
    "Mixtral": {**_GROUPED, **_WINDOW, "num_local_experts": 4},
    "Gemma2": {**_GEMMA, "attn_logit_softcapping": 2.0},
    "Gemma3Text": _GEMMA,
    "GPTNeoX": {"rotary_pct": 0.5},
    "GPT2": {},
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "Bloom": {},
    "Falcon": {"new_decoder_architecture": False},
    "Mamba": {"state_size": 4, "num_attention_heads": None},
    "GPTNeo": {"attention_types": [[["global", "local", "global"], 1]], "window_size": 9},
    "Bert": {},
}


def decoder(family: str, **changes: Any) -> Any:
    """A fresh small random model, such as Llama or GPTNeoX."""
    common = {**_SIZES, "vocab_size": 200, "num_hidden_layers": 3, "init_std": 0.2}
    config = _configuration(family, {**common, **_DECODERS[family], **changes})
    config.pad_token_id = None  # its embedding would be zeros
    torch.manual_seed(7)
    model = getattr(transformers, f"{family}Model")(config)
    if getattr(config, "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")  # not every version's default caps
    return model.eval().requires_grad_(False)


def renderer(name: str, chat_template: str | None = None, **settings: Any) -> Renderer:
    """A renderer for a template's name, or gpt2 and bert, which have none."""
    tokenizer = _make_tokenizer(name if name in SPECIAL else "llama", name)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return Renderer(tokenizer, BackboneConfig(name=name, **{"max_length": 256} | settings))
