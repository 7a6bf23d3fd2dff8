"""The embedding pass beside the loops that people use, on the same token ids in one process.

    python benchmarks/embed.py [--shape e1 helpsteer2 hh] [--pairs N] [--rounds 5] [--json]
    python benchmarks/embed.py --device cuda --pairs 512       the Llama-3.2-3B shape in bfloat16

Peers, all with transformers' own attention:
    loop3, loop2   batch 1 per row, with all hidden states: prompt, chosen and rejected, or the
                   prompt read from the chosen pass (a)
    collate        8 rows in arrival order, right-padded, all hidden states kept (b)
    encode         sentence-transformers on the three lists of texts (c)
    sorted3        de-duplicated, sorted by length, right-padded without a mask, the prompt as a
                   third pass (d3); by default as many tokens per batch as ours has per bin
    sorted2        the same with the prompt read from the chosen pass (d2)
Ours packs the distinct sequences and embeds the bins. Weights and ids are random, lengths are
lognormal; each pair is in ``--copies`` rows on average (2.31 attributes per pair in HelpSteer2).
Every way must first give the vectors of separate unpadded passes. Where all compute in bfloat16 no
two ways agree closely: there every way's error, against float32 over some rows, may be 1.1 times
that of separate passes, and all vectors must be near those of sorted3. Peers take turns with ours
in every round. With ``--loop_share`` the loops run a part of the rows, with ``--peer_share``
collate and encode do, and their seconds are scaled up by the tokens that they compute. ``tokens``
is the ratio of computed tokens that the lengths imply, padding included; ``ratio`` is measured
seconds over ours. The last line is JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from micro_rm.configs.schema import BackboneConfig
from micro_rm.embed.backbone import TorchBackbone
from micro_rm.embed.throughput import Work, matrix_peak, useful_flops

# Mean tokens of prompt, chosen and rejected, and rows per pair.
SHAPES = {
    "e1": (120, 60, 60, 2.31),
    "helpsteer2": (200, 340, 340, 2.31),
    "hh": (140, 50, 50, 1.0),
}
MODELS: dict[str, dict[str, Any]] = {
    "cpu": {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 4096,
    },
    "cuda": {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
}
COLLATE_ROWS = 8
ENCODE_ROWS = 32
FIRST_WORD = 4  # ids below are special
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2}
GATE_PAIRS = 24
NO_WORSE = 1.1  # root mean square error in 16 bits, over that of separate passes
NEAR = 0.15  # any two ways in 16 bits, at any sequence; a wrong mask is off by more than 1
SCALED = {"loop3": "loop", "loop2": "loop", "collate": "peer", "encode": "peer"}
Vectors = dict[bytes, np.ndarray]


@dataclass(frozen=True)
class Row:
    """A row of a preference file: three token sequences, the prompt in front of both others."""

    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray

    @property
    def sequences(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All three."""
        return self.prompt, self.chosen, self.rejected


def make_rows(shape: str, pairs: int, vocabulary: int, copies: float | None) -> list[Row]:
    """Pairs of random ids, repeated as often as attributes rate them, in random order."""
    means, repeat = SHAPES[shape][:3], SHAPES[shape][3] if copies is None else copies
    random = np.random.default_rng(0)

    def ids(mean: int) -> np.ndarray:
        size = max(4, int(random.lognormal(np.log(mean) - 0.125, 0.5)))
        return random.integers(FIRST_WORD, vocabulary, size).astype(np.int32)

    rows = []
    for _ in range(pairs):
        prompt = ids(means[0])
        row = Row(prompt, *(np.concatenate([prompt, ids(mean)]) for mean in means[1:]))
        rows += [row] * (int(repeat) + int(random.random() < repeat % 1))
    return [rows[place] for place in random.permutation(len(rows))]


class Peers:
    """The loops of others over one transformers model."""

    def __init__(
        self, directory: Path, device: torch.device, dtype: torch.dtype, row_tokens: int
    ) -> None:
        from transformers import AutoModel

        self.model = AutoModel.from_pretrained(directory, dtype=dtype).eval().to(device)
        self.row_tokens = row_tokens
        self.directory = directory
        self.encoder: Any = None

    @torch.inference_mode()
    def loop(self, rows: Sequence[Row], passes: int) -> Vectors:
        """(a) One sequence per forward pass, for every row anew."""
        found: Vectors = {}
        for row in rows:
            for ids in row.sequences[3 - passes :]:
                tensor = torch.from_numpy(ids.astype(np.int64))[None].to(self.model.device)
                out = self.model(
                    input_ids=tensor,
                    attention_mask=torch.ones_like(tensor),
                    output_hidden_states=True,
                )
                states = out.hidden_states[-1][0]
                found[ids.tobytes()] = _to_host(states[-1])
                if passes == 2 and ids is row.chosen:
                    found[row.prompt.tobytes()] = _to_host(states[len(row.prompt) - 1])
        return found

    @torch.inference_mode()
    def collate(self, rows: Sequence[Row]) -> Vectors:
        """(b) Batches of rows as they come, padded, the prompt read from the chosen sequence."""
        found: Vectors = {}
        for start in range(0, len(rows), COLLATE_ROWS):
            batch = rows[start : start + COLLATE_ROWS]
            sequences = [ids for row in batch for ids in row.sequences[1:]]
            padded, mask = self._padded(sequences)
            out = self.model(
                input_ids=padded, attention_mask=mask, output_hidden_states=True, use_cache=False
            )
            states = out.hidden_states[-1]
            for place, ids in enumerate(sequences):
                found[ids.tobytes()] = _to_host(states[place, len(ids) - 1])
            for place, row in enumerate(batch):
                found[row.prompt.tobytes()] = _to_host(states[2 * place, len(row.prompt) - 1])
        return found

    def encode(self, rows: Sequence[Row]) -> Vectors:
        """(c) sentence-transformers, which tokenises, sorts by length and pads."""
        if self.encoder is None:
            self.encoder = _sentence_transformer(self.directory, self.model)
        found: Vectors = {}
        for role in range(3):
            sequences = [row.sequences[role] for row in rows]
            texts = [" ".join(f"w{number}" for number in ids) for ids in sequences]
            vectors = self.encoder.encode(
                texts, batch_size=ENCODE_ROWS, show_progress_bar=False, convert_to_tensor=True
            )
            found |= zip((ids.tobytes() for ids in sequences), map(_to_host, vectors), strict=True)
        return found

    @torch.inference_mode()
    def sorted(self, rows: Sequence[Row], passes: int) -> Vectors:
        """(d) Every distinct sequence once, of similar length together."""
        wanted = {ids.tobytes(): ids for row in rows for ids in row.sequences[3 - passes :]}
        prompts = {row.chosen.tobytes(): row.prompt for row in rows} if passes == 2 else {}
        ordered = sorted(wanted.values(), key=len, reverse=True)
        found: Vectors = {}
        while ordered:
            fits = max(1, self.row_tokens // len(ordered[0]))
            batch, ordered = ordered[:fits], ordered[fits:]
            padded, _ = self._padded(batch)
            states = self.model(input_ids=padded, use_cache=False).last_hidden_state
            for place, ids in enumerate(batch):
                found[ids.tobytes()] = _to_host(states[place, len(ids) - 1])
                prompt = prompts.get(ids.tobytes())
                if prompt is not None:
                    found[prompt.tobytes()] = _to_host(states[place, len(prompt) - 1])
        return found

    def _padded(self, sequences: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        padded = np.zeros((len(sequences), max(map(len, sequences))), np.int64)
        mask = np.zeros_like(padded)
        for place, ids in enumerate(sequences):
            padded[place, : len(ids)] = ids
            mask[place, : len(ids)] = 1
        device = self.model.device
        return torch.from_numpy(padded).to(device), torch.from_numpy(mask).to(device)


def ours(backbone: TorchBackbone, rows: Sequence[Row]) -> Vectors:
    """Distinct sequences, packed, one bin ahead of what is read back."""
    distinct = {ids.tobytes(): ids for row in rows for ids in row.sequences}
    keys, sequences = list(distinct), list(distinct.values())
    found: Vectors = {}
    waiting: list[tuple[tuple[int, ...], Callable[[], np.ndarray]]] = []
    for made in [*backbone.pack(sequences, backbone.bin_tokens), None]:
        if made is not None:
            started = backbone.submit([sequences[place] for place in made.members])
            waiting.append((made.members, started))
        if len(waiting) > 1 or made is None:
            for members, collect in waiting[: 1 if made is not None else None]:
                found |= zip((keys[place] for place in members), collect(), strict=True)
            waiting = waiting[1:]
    return found


def own_tokens(backbone: TorchBackbone, rows: Sequence[Row]) -> int:
    """Tokens in our bins."""
    distinct = list({ids.tobytes(): ids for row in rows for ids in row.sequences}.values())
    return sum(made.tokens for made in backbone.pack(distinct, backbone.bin_tokens))


def peer_tokens(rows: Sequence[Row], row_tokens: int) -> dict[str, int]:
    """Tokens that each peer computes, padding included."""
    lengths = [[len(ids) for ids in row.sequences] for row in rows]

    def in_batches(sizes: list[int], batch: int) -> int:
        return sum(
            max(sizes[start : start + batch]) * len(sizes[start : start + batch])
            for start in range(0, len(sizes), batch)
        )

    def by_length(passes: int) -> int:
        wanted = {ids.tobytes(): len(ids) for row in rows for ids in row.sequences[3 - passes :]}
        sizes, total = sorted(wanted.values(), reverse=True), 0
        while sizes:
            fits = max(1, row_tokens // sizes[0])
            total += sizes[0] * len(sizes[:fits])
            sizes = sizes[fits:]
        return total

    return {
        "loop3": sum(map(sum, lengths)),
        "loop2": sum(sum(row[1:]) for row in lengths),
        "collate": in_batches([size for row in lengths for size in row[1:]], 2 * COLLATE_ROWS),
        "encode": sum(
            in_batches(sorted((row[role] for row in lengths), reverse=True), ENCODE_ROWS)
            for role in range(3)
        ),
        "sorted3": by_length(3),
        "sorted2": by_length(2),
    }


def save_model(directory: Path, device: str, dtype: torch.dtype) -> int:
    """Random weights of the device's shape, and a tokenizer for which ``w17`` is id 17."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    shape = MODELS[device]
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = LlamaModel(LlamaConfig(max_position_embeddings=8192, **shape))
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(directory)
    words = {f"w{number}": number for number in range(shape["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0")
    fast.padding_side = "right"
    fast.save_pretrained(directory)
    return shape["vocab_size"]


def _sentence_transformer(directory: Path, model: Any) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformer = Transformer(
        str(directory), model_kwargs={"dtype": model.dtype}, max_seq_length=8192
    )
    pooling = Pooling(model.config.hidden_size, pooling_mode="lasttoken")
    return SentenceTransformer(modules=[transformer, pooling], device=str(model.device))


def _to_host(vector: torch.Tensor) -> np.ndarray:
    return vector.float().cpu().numpy()


def errors_of(found: Vectors, expected: Vectors) -> np.ndarray:
    """Relative L2 errors of the sequences that are expected, infinite for one that is missing."""
    return np.array(
        [
            np.linalg.norm(np.asarray(found[key], np.float64) - vector) / np.linalg.norm(vector)
            if key in found
            else np.inf
            for key, vector in ((key, np.asarray(v, np.float64)) for key, v in expected.items())
        ]
    )


def distinct_pairs(rows: Sequence[Row]) -> list[Row]:
    """Every pair once."""
    return list({row.chosen.tobytes(): row for row in rows}.values())


def keys_of(rows: Sequence[Row]) -> set[bytes]:
    """What a way must find for these rows."""
    return {ids.tobytes() for row in rows for ids in row.sequences}


Gate = tuple[bool, dict[str, Any]]


def gate_exact(
    ways: dict[str, Callable[[], Vectors]], parts: dict[str, list[Row]], peers: Peers, limit: float
) -> Gate:
    """Whether every way gives the vectors of separate passes; the largest errors."""
    expected = peers.loop(distinct_pairs(parts["ours"]), 3)
    errors = {}
    for name, way in ways.items():
        keys = keys_of(parts[name])
        errors[name] = float(errors_of(way(), {key: expected[key] for key in keys}).max())
    return all(error <= limit for error in errors.values()), errors


def gate_narrow(
    ways: dict[str, Callable[[], Vectors]], parts: dict[str, list[Row]], peers: Peers
) -> Gate:
    """Whether no way in 16 bits is further from float32 than separate passes; what was found."""
    few = min(parts.values(), key=len)
    wide = copy.copy(peers)
    wide.model = copy.deepcopy(peers.model).float()
    truth = wide.loop(distinct_pairs(few)[:GATE_PAIRS], 3)
    del wide
    found = {name: way() for name, way in ways.items()}
    near = found["sorted3"]
    errors = {
        name: {
            "to_float32": float(np.sqrt((errors_of(vectors, truth) ** 2).mean())),
            "largest_to_float32": float(errors_of(vectors, truth).max()),
            "largest_to_sorted3": float(
                errors_of(vectors, {key: near[key] for key in keys_of(parts[name])}).max()
            ),
        }
        for name, vectors in found.items()
    }
    limit = NO_WORSE * errors["loop3"]["to_float32"]
    return all(
        error["to_float32"] <= limit and error["largest_to_sorted3"] <= NEAR
        for error in errors.values()
    ), errors


@dataclass(frozen=True)
class Ready:
    """What all shapes share."""

    backbone: TorchBackbone
    peers: Peers
    vocabulary: int
    row_tokens: int
    ready_s: float


def prepare(options: argparse.Namespace, directory: Path) -> Ready:
    """Random weights, loaded by ours (and compiled, on a GPU) and by the peers."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    vocabulary = save_model(directory, device.type, dtype)
    config = BackboneConfig(name=str(directory), dtype=options.dtype, max_length=8192)
    start = time.perf_counter()
    backbone = TorchBackbone(directory, config, device=device.type, bin_tokens=options.bin_tokens)
    ready_s = time.perf_counter() - start
    row_tokens = options.row_tokens or backbone.bin_tokens
    peer_dtype = getattr(torch, options.peer_dtype or options.dtype)
    peers = Peers(directory, device, peer_dtype, row_tokens)
    return Ready(backbone, peers, vocabulary, row_tokens, ready_s)


def measure(options: argparse.Namespace, shape: str, ready: Ready) -> dict[str, Any]:
    """Equality gate, then rounds of all ways in turn."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    backbone, peers = ready.backbone, ready.peers
    rows = make_rows(shape, options.pairs, ready.vocabulary, options.copies)
    shares = {"loop": options.loop_share, "peer": options.peer_share}
    names = ("ours", "loop3", "loop2", "collate", "encode", "sorted3", "sorted2")
    parts = {
        name: rows[: max(1, round(len(rows) * shares.get(SCALED.get(name, ""), 1.0)))]
        for name in names
    }
    ways: dict[str, Callable[[], Vectors]] = {
        "ours": lambda: ours(backbone, rows),
        "loop3": lambda: peers.loop(parts["loop3"], 3),
        "loop2": lambda: peers.loop(parts["loop2"], 2),
        "collate": lambda: peers.collate(parts["collate"]),
        "encode": lambda: peers.encode(parts["encode"]),
        "sorted3": lambda: peers.sorted(rows, 3),
        "sorted2": lambda: peers.sorted(rows, 2),
    }
    types = {options.dtype, options.peer_dtype or options.dtype}
    if types == {"bfloat16"}:
        equal, errors = gate_narrow(ways, parts, peers)
    else:
        equal, errors = gate_exact(ways, parts, peers, max(TOLERANCE[name] for name in types))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    memory: dict[str, float] = {}
    work = Work()
    for _ in range(options.rounds):
        for name, way in ways.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            backbone.work = Work()
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
            if name == "ours":
                work = backbone.work
            if device.type == "cuda":
                memory[name] = torch.cuda.max_memory_allocated() / 2**30
    flops = useful_flops(backbone.model, work)
    assert flops is not None
    peak = matrix_peak(device, dtype)
    computed = peer_tokens(rows, ready.row_tokens)
    for name, tokens in computed.items():  # a part of the rows stands for all
        scale = tokens / peer_tokens(parts[name], ready.row_tokens)[name]
        seconds[name] = [value * scale for value in seconds[name]]
    mine = statistics.median(seconds["ours"])
    in_bins = own_tokens(backbone, rows)
    return {
        "name": f"embed-{shape}",
        "equal": equal,
        "ours_s": mine,
        "peers": {
            name: {
                "seconds": statistics.median(values),
                "ratio": statistics.median(values) / mine,
                "tokens": computed[name] / in_bins,
                "of_ideal": statistics.median(values) / mine / computed[name] * in_bins,
            }
            for name, values in seconds.items()
            if name != "ours"
        },
        "limit": {
            "what": f"matrix product at {peak / 1e12:.3g} TFLOP/s",
            "seconds": flops / peak,
            "fraction": flops / peak / mine,
        },
        "tokens": work.tokens,
        "tokens_per_second": work.tokens / mine,
        "useful_tflops_per_second": flops / mine / 1e12,
        "errors": errors,
        "peak_gib": memory,
        "rows": len(rows),
        "rows_run": {name: len(part) for name, part in parts.items()},
        "ready_s": ready.ready_s,
        "settings": vars(options) | {"shape": shape, "note": backbone.note},
        "spread": {name: [min(v), max(v)] for name, v in seconds.items()},
        "machine": {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }


def show(result: dict[str, Any]) -> None:
    """The result as a table."""
    settings, limit = result["settings"], result["limit"]
    print(
        f"{settings['shape']}: {settings['pairs']} pairs, {result['rows']} rows, "
        f"{result['tokens']:,} tokens, {settings['dtype']} "
        f"(peers {settings['peer_dtype'] or 'too'})"
    )
    print(
        f"ours     {result['ours_s']:8.2f} s  {result['tokens_per_second']:,.0f} tokens/s, "
        f"{limit['fraction']:.0%} of a {limit['what']}; equal: {result['equal']}, "
        f"errors {result['errors']}"
    )
    for name, peer in result["peers"].items():
        print(
            f"{name:<8} {peer['seconds']:8.2f} s  {peer['ratio']:5.2f} times ours; by tokens "
            f"{peer['tokens']:.2f}, so {peer['of_ideal']:.0%} of it"
        )


def main() -> None:
    """Run the chosen shapes."""
    parser = argparse.ArgumentParser(description="The embedding pass beside its peers.")
    parser.add_argument("--shape", choices=list(SHAPES), nargs="*", default=list(SHAPES))
    parser.add_argument("--pairs", type=int, default=96)
    parser.add_argument("--copies", type=float, help="rows per pair; by default the shape's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=list(MODELS), default="cpu")
    parser.add_argument("--dtype", choices=list(TOLERANCE))
    parser.add_argument("--peer_dtype", choices=list(TOLERANCE), help="by default the same")
    parser.add_argument("--bin_tokens", type=int)
    parser.add_argument("--row_tokens", type=int, help="padded tokens of sorted batches; as ours")
    parser.add_argument("--loop_share", type=float, help="share of the rows that (a) runs")
    parser.add_argument("--peer_share", type=float, default=1.0, help="the same of (b) and (c)")
    parser.add_argument("--json", action="store_true", help="JSON lines only")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    options.dtype = options.dtype or ("bfloat16" if on_gpu else "float32")
    options.loop_share = options.loop_share or (min(1.0, 128 / options.pairs) if on_gpu else 1.0)
    with tempfile.TemporaryDirectory() as name:
        ready = prepare(options, Path(name))
        for shape in options.shape:
            result = measure(options, shape, ready)
            if not options.json:
                show(result)
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
