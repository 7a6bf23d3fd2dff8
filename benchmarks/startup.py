"""What happens before the first forward pass: import, --help, and planning 100,000 pairs.

    python benchmarks/startup.py [--pairs 100000] [--rounds 5] [--data FILE] [--json]

Planning reads, renders, tokenises, hashes, de-duplicates and packs, in a process of its own, whose
peak memory is reported. The peer is the loop of reward-model repositories: one call of the chat
template and one of the tokenizer per text, three texts per row; it runs on a part of the rows and
is scaled up. With --data (a preference file such as HH-RLHF) the texts are recombined from it, else
from a small vocabulary; every prompt is made distinct. The tokenizer is a byte-level BPE of 16,000
entries trained on the same texts. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORDS = "the moon river stone answer question could short story list with more kind read cook"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}"
    "<|end_header_id|>\n\n{{ message.content | trim }}<|eot_id|>{% endfor %}"
)
SPECIAL = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
PEER_ROWS = 1000
Texts = tuple[str, str, str]


def texts_of(file: str | None) -> list[Texts]:
    """Prompt, chosen and rejected to recombine."""
    if file is None:
        draw = random.Random(0)
        words = WORDS.split()

        def text(mean: int) -> str:
            return " ".join(draw.choices(words, k=draw.randint(mean // 3, 2 * mean - mean // 3)))

        # About the 498, 209 and 201 characters of HH-RLHF.
        return [(text(90), text(38), text(37)) for _ in range(4000)]
    from micro_rm.configs.data import ColumnsConfig, DataConfig
    from micro_rm.embed.sources import open_pairs

    pairs = open_pairs(DataConfig(train=file, columns=ColumnsConfig(attribute="objective")))
    texts = [("\n".join(turn.content for turn in p.prompt), p.chosen, p.rejected) for p in pairs]
    random.Random(0).shuffle(texts)  # the peer sees the first rows only
    return texts


def make_pairs(texts: list[Texts], number: int) -> Iterator[Any]:
    """Distinct pairs, one in five a test row."""
    from micro_rm.embed.sources.pair import Message, PreferencePair

    for place in range(number):
        prompt, chosen, rejected = texts[place % len(texts)]
        yield PreferencePair(
            prompt=(Message("user", f"({place}) {prompt}"),),
            chosen=chosen,
            rejected=rejected if rejected != chosen else rejected + ".",
            split="test" if place % 5 == 0 else "train",
            source="benchmark",
            attribute=("helpful", "harmless")[place % 2],
            row=place + 1,
        )


def save_backbone(directory: Path, texts: list[Texts]) -> None:
    """A tiny random Llama whose tokenizer knows the texts."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=16000,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for row in texts for text in row), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIAL[0], eos_token=SPECIAL[1]
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(directory)
    torch.manual_seed(0)
    model = LlamaModel(
        LlamaConfig(
            vocab_size=len(fast),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    )
    model.save_pretrained(directory)


def plan(backbone: Path, pairs: int, file: str | None) -> dict[str, Any]:
    """Plan in this process; seconds of the plan, sizes, and peak memory of the process."""
    from micro_rm.configs.schema import BackboneConfig, Config, DataConfig, EmbedConfig, StoreConfig
    from micro_rm.embed.encoder import load_encoder
    from micro_rm.embed.planner import make_plan
    from micro_rm.embed.sources import PairSource

    texts = texts_of(file)
    config = Config(
        data=DataConfig(name="benchmark"),
        backbone=BackboneConfig(name=str(backbone), dtype="float32", max_length=4096),
        embed=EmbedConfig(device="cpu", bin_tokens=32768),
        store=StoreConfig(dir=str(backbone / "no-store")),
    )
    encoder = load_encoder(config.backbone, config.embed)
    assert encoder.backbone.sharing
    source = PairSource(config.data, lambda _config, _account: make_pairs(texts, pairs))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        facts = make_plan(encoder, source, config, "benchmark", Path(directory)).facts
        seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "mib_before": before / 1024,
        "pairs": pairs,
        "sequences": facts.sequences,
        "separate_tokens": facts.separate_tokens,
        "tokens": facts.tokens,
        "fill": facts.fill,
    }


def peer(backbone: Path, pairs: int, file: str | None) -> dict[str, Any]:
    """The loop over rows: template and tokenizer once per text; ids as a check."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(backbone)
    rows = list(make_pairs(texts_of(file), min(pairs, PEER_ROWS)))
    tokens = 0
    start = time.perf_counter()
    for pair in rows:
        prompt = [{"role": "user", "content": pair.prompt[0].content}]
        for response in (None, pair.chosen, pair.rejected):
            turns = prompt + [{"role": "assistant", "content": response}] * (response is not None)
            text = tokenizer.apply_chat_template(turns, tokenize=False)
            tokens += len(tokenizer(text, add_special_tokens=False)["input_ids"])
    seconds = (time.perf_counter() - start) * pairs / len(rows)
    return {"seconds": seconds, "tokens": tokens}


def in_a_process(step: str, *arguments: object) -> dict[str, Any]:
    """A step of this file in a fresh process."""
    command = [sys.executable, __file__, "--step", json.dumps([step, *map(str, arguments)])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def seconds_of(command: list[str], rounds: int) -> float:
    """Median wall time of a command."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Run every measurement and print it."""
    parser = argparse.ArgumentParser(description="Import, --help and planning.")
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data")
    parser.add_argument("--json", action="store_true", help="the last line only")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step, backbone, pairs, file = json.loads(options.step)
        run = {"plan": plan, "peer": peer}[step]
        print(json.dumps(run(Path(backbone), int(pairs), None if file == "None" else file)))
        return
    python = [sys.executable, "-c"]
    commands = {
        "python itself": [*python, "pass"],
        "import micro_rm": [*python, "import micro_rm"],
        "micro-rm --help": [*python, "from micro_rm.pipeline import main; main(['--help'])"],
        "micro-rm embed --help": [
            *python,
            "from micro_rm.pipeline import main; main(['embed', '--help'])",
        ],
        "import transformers": [*python, "import transformers"],
        "import torch": [*python, "import torch"],
    }
    starts = {name: seconds_of(command, options.rounds) for name, command in commands.items()}
    with tempfile.TemporaryDirectory() as directory:
        backbone = Path(directory)
        save_backbone(backbone, texts_of(options.data))
        same = in_a_process("plan", backbone, PEER_ROWS, options.data)["separate_tokens"]
        ours, peers = [], []
        for _ in range(options.rounds):
            ours.append(in_a_process("plan", backbone, options.pairs, options.data))
            peers.append(in_a_process("peer", backbone, options.pairs, options.data))
    median = sorted(ours, key=lambda found: found["seconds"])[len(ours) // 2]
    loop = statistics.median(found["seconds"] for found in peers)
    result = {
        "name": "startup",
        "equal": same == peers[0]["tokens"],
        "ours_s": median["seconds"],
        "peers": {"row_by_row": {"seconds": loop, "ratio": loop / median["seconds"]}},
        "plan": median,
        "commands": starts,
        "cores": os.cpu_count(),
        "rounds": options.rounds,
    }
    if not options.json:
        for name, seconds in starts.items():
            print(f"{name:<24} {seconds:6.2f} s")
        print(
            f"{'plan and tokenise':<24} {median['seconds']:6.1f} s for {options.pairs:,} pairs, "
            f"{median['separate_tokens']:,} tokens, peak {median['peak_mib']:,.0f} MiB "
            f"({median['mib_before']:,.0f} MiB before)"
        )
        print(
            f"{'row by row':<24} {loop:6.1f} s, scaled up from {PEER_ROWS:,} rows, "
            f"{loop / median['seconds']:.1f} times ours"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
