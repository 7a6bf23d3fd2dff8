"""Write backbone and linear heads as a sequence classifier of transformers."""

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
from .probes import probe_conversation, probe_messages

# Template code that writes the special tokens at the start and the end of a sequence.
START, END = "{{- bos_token -}}", "{{- sep_token or eos_token -}}"


def write_classifier(
    directory: Path, encoder: Encoder, heads_LxD: np.ndarray, labels: Sequence[str]
) -> None:
    """Write weights, configuration and tokenizer of a classifier into an empty directory.

    Args:
        directory: Where to write.
        encoder: The backbone.
        heads_LxD: L linear heads over its unscaled vectors.
        labels: Names of the L outputs.

    Raises ``ExportError`` where a classifier of transformers would compute something else: if the
    backbone is not pooled at the last token, or its classifier has no plain linear head.
    """
    if encoder.backbone.pooling != "last":
        raise ExportError(
            f"export.tier: {encoder.config.name} is read out by {encoder.backbone.pooling}, and "
            "classifiers of transformers read decoders at their last token (encoders through a "
            "trained pooler, which this one lacks); use tier routed"
        )
    token, pad_id, new = _padding_token(encoder)
    model = _load(encoder.files.directory, len(labels))
    dtype = str(next(model.base_model.parameters()).dtype).removeprefix("torch.")
    rows = model.get_input_embeddings().weight.shape[0]
    if pad_id >= rows:  # the embedding of the padding token is never read
        model.resize_token_embeddings(pad_id + 1, mean_resizing=False)
        rows = pad_id + 1
    head = torch.from_numpy(np.ascontiguousarray(heads_LxD, np.float32))
    model.score.weight = torch.nn.Parameter(head, requires_grad=False)  # stays float32
    model.save_pretrained(directory)
    write_json(
        directory / "config.json",
        classifier_config(
            read_json(encoder.files.directory / "config.json"),
            architecture=type(model).__name__,
            labels=labels,
            pad_id=pad_id,
            dtype=dtype,
            vocabulary=rows,
        ),
    )
    _write_tokenizer(directory, encoder, token, pad_id, new=new)


def _load(directory: Path, labels: int) -> Any:
    """Load a backbone as a classifier, whose head is the only part not in the checkpoint."""
    from transformers import AutoModelForSequenceClassification

    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            directory,
            num_labels=labels,
            dtype="auto",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (ValueError, KeyError, OSError) as error:
        raise ExportError(
            f"export.tier: transformers has no classifier for {directory.name} ({error}); use tier "
            "routed"
        ) from error
    head = getattr(model, "score", None)
    if not isinstance(head, torch.nn.Linear) or head.bias is not None:
        raise ExportError(
            f"export.tier: {type(model).__name__} has no plain linear head named score; use tier "
            "routed"
        )
    absent = {str(item[0]) for item in report["mismatched_keys"]} | set(report["missing_keys"])
    if absent - {"score.weight"}:
        raise ExportError(
            f"{directory}: the checkpoint lacks {', '.join(sorted(absent - {'score.weight'}))}"
        )
    return model.eval()


def _padding_token(encoder: Encoder) -> tuple[str, int, bool]:
    """The padding token, its id, and whether it must be added to the tokenizer files."""
    tokenizer = encoder.renderer.tokenizer
    vocabulary = tokenizer.get_vocab()
    # The chat template may end a turn with another token than the end of the sequence.
    last = encoder.renderer.token_ids([probe_conversation()])[0][-1]
    ends = {tokenizer.eos_token, tokenizer.bos_token, tokenizer.convert_ids_to_tokens(int(last))}
    token, new = choose_padding(tokenizer.pad_token, ends - {None}, vocabulary)
    pad_id = max(vocabulary.values()) + 1 if new else vocabulary[token]
    # Some tokenizer classes add tokens at load time that the files lack.
    file = encoder.files.directory / "tokenizer.json"
    return token, pad_id, new or (file.is_file() and token not in tokenizer_tokens(read_json(file)))


def _write_tokenizer(
    directory: Path, encoder: Encoder, token: str, pad_id: int, *, new: bool
) -> None:
    """Copy the tokenizer files, with the padding token and the chat template of the run."""
    source = encoder.files.directory
    for name in TOKENIZER_FILES:
        if (source / name).is_file() and name != "special_tokens_map.json":
            shutil.copyfile(source / name, directory / name)
    if new:
        if not (directory / "tokenizer.json").is_file():
            raise ExportError(
                f"{source}: needs a padding token, and has no tokenizer.json to add it to; save it "
                "with a fast tokenizer of transformers first"
            )
        write_json(
            directory / "tokenizer.json",
            add_special_token(read_json(directory / "tokenizer.json"), token, pad_id),
        )
    settings = padding_tokenizer_config(
        read_json(source / "tokenizer_config.json"), token, pad_id, new=new
    )
    template = _template(encoder)
    settings["chat_template"] = template  # transformers before 4.43 does not read the file
    (directory / TEMPLATE).write_text(template, "utf-8")
    write_json(directory / "tokenizer_config.json", settings)


def _template(encoder: Encoder) -> str:
    """The chat template that reproduces the run's token ids, or the closest to it.

    Users of a classifier tokenize without special tokens, so the template itself has to write those
    that the tokenizer would add at the start and the end.
    """
    renderer = encoder.renderer
    own = plain_template()
    if renderer.templated:
        own = pinned_template(str(renderer.tokenizer.chat_template), encoder.config.date)
    expected = renderer.token_ids([probe_conversation()])[0].tolist()
    candidates = [f"{start}{own}{end}" for end in ("", END) for start in ("", START)]
    turns = [turn._asdict() for turn in probe_messages()]
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
