"""On a GPU a vector is what the CPU gives: every family, every kernel, memory running out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from micro_rm.cache.schema import KEY_DTYPE
from micro_rm.configs.schema import BackboneConfig
from micro_rm.embed import attention
from micro_rm.embed.attention import AttentionOptions
from micro_rm.embed.backbone import TorchBackbone
from micro_rm.embed.nonfinite import FailureGuard
from micro_rm.embed.shard_loop import BinLimit, embed_bins
from micro_rm.tests.embed.token_sequences import random_sequences, relative_error

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # PyTorch 2.11 warns of itself when it compiles, and that float32 is meant.
    pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
]
FAMILIES = ("Llama", "Qwen3", "Mistral", "Gemma2", "Gemma3Text", "GPTNeoX", "GPT2", "OPT", "Bloom")
# Kernels on the device sum in another order; a wrong mask or position is off by 0.1 and more.
TOLERANCE = {"float32": 2e-5, "bfloat16": 8e-2}
# Rounded to 16 bits, a shared pass is about as far from the truth as a separate one.
NO_WORSE = {"float32": 8.0, "bfloat16": 2.0}
BIN = 512


@pytest.fixture(scope="module")
def pair_of(
    decoder: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], tuple[TorchBackbone, TorchBackbone]]:
    """``pair_of(family, dtype)``: the same weights on the GPU, and in float32 on the CPU."""
    made: dict[tuple[str, str], tuple[TorchBackbone, TorchBackbone]] = {}

    def make(family: str, dtype: str) -> tuple[TorchBackbone, TorchBackbone]:
        if (family, dtype) not in made:
            directory = tmp_path_factory.mktemp(family)
            changes = {"hidden_size": 64, "head_dim": 16} if family not in _OWN_HEADS else {}
            decoder(family, **changes).save_pretrained(directory)

            def load(device: str, dtype: str) -> TorchBackbone:
                config = BackboneConfig(name=family, dtype=dtype, max_length=200)
                return TorchBackbone(directory, config, device=device, bin_tokens=BIN)

            torch._dynamo.reset()  # a process has one model, and not nine to compile for
            made[family, dtype] = load("cuda", dtype), load("cpu", "float32")
        return made[family, dtype]

    return make


_OWN_HEADS = ("GPTNeoX", "GPT2", "OPT", "Bloom")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gpu_gives_the_vectors_of_the_cpu(
    family: str, pair_of: Callable[..., tuple[TorchBackbone, TorchBackbone]]
) -> None:
    ids = random_sequences(0, 24)
    for dtype, tolerance in TOLERANCE.items():
        gpu, cpu = pair_of(family, dtype)
        expected = np.array([cpu.reference_vector(one) for one in ids])
        assert gpu.note == cpu.note  # which would say that its layers are not compiled
        alone = relative_error(np.array([gpu.reference_vector(one) for one in ids]), expected)
        bins = gpu.pack(ids, BIN)
        order = [index for packed in bins for index in packed.members]
        actual = [gpu.vectors([ids[index] for index in packed.members]) for packed in bins]
        shared = relative_error(np.concatenate(actual), expected[order])
        print(f"{family} {dtype}: alone {alone:.1e}, shared {shared:.1e}; {gpu.note}")
        assert alone < tolerance
        assert shared < min(tolerance, NO_WORSE[dtype] * alone)


def test_sixteen_bits_take_the_variable_length_kernel(
    pair_of: Callable[..., tuple[TorchBackbone, TorchBackbone]], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, _ = pair_of("Llama", "bfloat16")
    calls: list[int] = []
    honest = attention.by_varlen
    monkeypatch.setattr(attention, "by_varlen", lambda *rest: calls.append(1) or honest(*rest))
    gpu.vectors(random_sequences(1, 24))
    assert attention.varlen_supports(gpu.device, torch.bfloat16, AttentionOptions(None, None, None))
    assert len(calls) == 3  # one per layer: the first run of the last one stops at its keys


def test_memory_that_runs_out_halves_the_bins_and_loses_nothing(
    pair_of: Callable[..., tuple[TorchBackbone, TorchBackbone]],
) -> None:
    """The device's own error: an allocator that is allowed next to nothing."""
    gpu, _ = pair_of("Llama", "float32")
    ids = random_sequences(2, 300)
    bins = gpu.pack(ids, 8 * BIN)
    expected = np.concatenate([gpu.vectors([ids[n] for n in made.members]) for made in bins])
    order = [n for made in bins for n in made.members]

    class Planned:
        def bins(self, _shard: int) -> list[tuple[int, tuple[int, ...]]]:
            return [(made.tokens, made.members) for made in bins]

        def sequence(self, number: int) -> np.ndarray:
            return ids[number]

    notices: list[str] = []
    torch.cuda.empty_cache()
    spare = torch.cuda.memory_reserved() + (12 << 20)
    torch.cuda.set_per_process_memory_fraction(
        spare / torch.cuda.get_device_properties(0).total_memory
    )
    try:
        plan: Any = Planned()
        limit = BinLimit(8 * BIN, notices.append)
        guard = FailureGuard(gpu, "Llama", True, np.empty(0, KEY_DTYPE))
        actual = np.concatenate([part for _, part in embed_bins(gpu, plan, 0, limit, guard)])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(order) == len(actual)
    assert relative_error(actual, expected) < TOLERANCE["float32"]
    print(notices)


def test_a_run_uses_torch_and_jax_on_one_device(tmp_path: Path, save_backbone: Any) -> None:
    """Both libraries share the card within one process, and the run ends with its report."""
    backbone = save_backbone(tmp_path / "llama", "llama")
    command = [
        *(sys.executable, "-m", "micro_rm.pipeline", "run"),
        *("--data.source=synthetic", f"--backbone.name={backbone}", "--backbone.max_length=1024"),
        *("--data.synthetic.prompts=40", "--adapt.budget=10", "--methods=single_bt,micro"),
        *(f"--store.dir={tmp_path / 'store'}", f"--run.dir={tmp_path / 'run'}", "--train.epochs=2"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "cuda" in done.stdout
    assert (tmp_path / "run" / "report.json").is_file()
