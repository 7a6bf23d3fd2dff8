"""Write a backbone with linear heads as a sequence classifier of transformers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError

from ...common.files import write_json
from ...embed.encoder import Encoder
from ...embed.model_files import TOKENIZER_FILES
from .fixed_texts import sample_conversation, sample_messages
from .hf_files import (
    TEMPLATE,
    add_special_token,
    choose_padding,
    classifier_config,
    padding_tokenizer_config,
    pinned_template,
    plain_template,
    read_json,
    tokenizer_tokens,
)
from .persona import ExportError

# Template code that writes the special tokens at the start and the end of a sequence.
START, END = "{{- bos_token -}}", "{{- sep_token or eos_token -}}"


def write_classifier(
    directory: Path, encoder: Encoder, heads_LxD: np.ndarray, labels: Sequence[str]
) -> None:
    """Write the weights, configuration and tokenizer of a classifier.

    Args:
        directory: An empty directory.
        encoder: The backbone.
        heads_LxD: L linear heads over the backbone's unscaled vectors.
        labels: Names of the L outputs.

    Raises:
        ExportError: transformers has no classifier that computes the same: the vectors are not
            those of the last token, or the classifier has no bias-free linear head. Also if the
            tokenizer needs a padding token that cannot be added, or weights are missing.
    """
    if encoder.backbone.pooling != "last":
        raise ExportError(
            f"export.tier: expected a backbone with last-token pooling, because sequence "
            f"classifiers of transformers read the last token of a decoder, found "
            f"{encoder.backbone.pooling} pooling of {encoder.config.name}; use tier routed"
        )
    token, pad_id, new = _padding_token(encoder)
    model = _load_classifier(encoder.files.directory, len(labels))
    dtype = str(next(model.base_model.parameters()).dtype).removeprefix("torch.")
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if pad_id >= vocabulary:
        # Padding is masked, so the value of the new embedding does not matter.
        model.resize_token_embeddings(pad_id + 1, mean_resizing=False)
        vocabulary = pad_id + 1
    # The head stays float32 whatever the backbone's dtype: rounding it would change the scores.
    head = torch.from_numpy(np.ascontiguousarray(heads_LxD, np.float32))
    model.score.weight = torch.nn.Parameter(head, requires_grad=False)
    model.save_pretrained(directory)
    write_json(
        directory / "config.json",
        classifier_config(
            read_json(encoder.files.directory / "config.json"),
            architecture=type(model).__name__,
            labels=labels,
            pad_id=pad_id,
            dtype=dtype,
            vocabulary=vocabulary,
        ),
    )
    _write_tokenizer(directory, encoder, token, pad_id, new=new)


def _load_classifier(directory: Path, num_labels: int) -> Any:
    """Load a backbone as a classifier with a new head; all other weights are in the checkpoint."""
    from transformers import AutoModelForSequenceClassification

    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            directory,
            num_labels=num_labels,
            dtype="auto",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (ValueError, KeyError, OSError) as error:
        raise ExportError(
            f"export.tier: transformers cannot load {directory.name} as a sequence classifier "
            f"({error}); use tier routed"
        ) from error
    head = getattr(model, "score", None)
    if not isinstance(head, torch.nn.Linear) or head.bias is not None:
        raise ExportError(
            f"export.tier: expected a classifier with a bias-free linear head named score, found "
            f"{type(model).__name__} without one; use tier routed"
        )
    missing = {str(item[0]) for item in report["mismatched_keys"]} | set(report["missing_keys"])
    missing -= {"score.weight"}
    if missing:
        raise ExportError(
            f"{directory}: expected all weights of {type(model).__name__}, missing or of another "
            f"shape: {', '.join(sorted(missing))}; download the backbone again, or use tier routed"
        )
    return model.eval()


def _padding_token(encoder: Encoder) -> tuple[str, int, bool]:
    """Return the padding token, its id, and whether it must be added to the tokenizer files."""
    tokenizer = encoder.renderer.tokenizer
    vocabulary = tokenizer.get_vocab()
    # The chat template may end a turn with a token other than EOS.
    last = encoder.renderer.token_ids([sample_conversation()])[0][-1]
    ends = {tokenizer.eos_token, tokenizer.bos_token, tokenizer.convert_ids_to_tokens(int(last))}
    token, new = choose_padding(tokenizer.pad_token, ends - {None}, vocabulary)
    pad_id = max(vocabulary.values()) + 1 if new else vocabulary[token]
    # Some tokenizer classes add tokens at load time that tokenizer.json lacks.
    file = encoder.files.directory / "tokenizer.json"
    return token, pad_id, new or (file.is_file() and token not in tokenizer_tokens(read_json(file)))


def _write_tokenizer(
    directory: Path, encoder: Encoder, token: str, pad_id: int, *, new: bool
) -> None:
    """Copy the tokenizer files; set the padding token and the chat template of the run."""
    source = encoder.files.directory
    for name in TOKENIZER_FILES:
        if (source / name).is_file() and name != "special_tokens_map.json":
            shutil.copyfile(source / name, directory / name)
    if new:
        if not (directory / "tokenizer.json").is_file():
            raise ExportError(
                f"{source}: expected a tokenizer with a padding token of its own or a "
                "tokenizer.json to add one to, found neither; save its fast tokenizer with "
                "transformers, or use tier routed"
            )
        write_json(
            directory / "tokenizer.json",
            add_special_token(read_json(directory / "tokenizer.json"), token, pad_id),
        )
    settings = padding_tokenizer_config(
        read_json(source / "tokenizer_config.json"), token, pad_id, new=new
    )
    template = _chat_template(encoder)
    settings["chat_template"] = template  # transformers before 4.43 ignores the template file
    (directory / TEMPLATE).write_text(template, "utf-8")
    write_json(directory / "tokenizer_config.json", settings)


def _chat_template(encoder: Encoder) -> str:
    """The chat template that reproduces the run's token ids; if none does, the run's own.

    ``apply_chat_template`` adds no special tokens, so the template itself must write those that
    the tokenizer would add at the start and end of a sequence.
    """
    renderer = encoder.renderer
    own = plain_template()
    if renderer.templated:
        own = pinned_template(str(renderer.tokenizer.chat_template), encoder.config.date)
    expected = renderer.token_ids([sample_conversation()])[0].tolist()
    candidates = [f"{start}{own}{end}" for end in ("", END) for start in ("", START)]
    turns = [turn._asdict() for turn in sample_messages()]
    for template in candidates:
        try:
            ids = renderer.tokenizer.apply_chat_template(
                turns, chat_template=template, tokenize=True, return_dict=True
            )["input_ids"]
        except (TemplateError, ValueError, TypeError, KeyError):
            continue
        if list(ids) == expected:
            return template
    return own
