"""Replay an export, or a service, inside OpenRLHF or vLLM: a command, not a test.

Run the file in an environment of that tool; micro_rm need not be installed:

    python tools/serve/replay.py openrlhf exports/brief
    python tools/serve/replay.py vllm exports/brief
    python tools/serve/replay.py client 'http://127.0.0.1:8000/get_reward?context=be%20brief'

The first two compare with ``golden.json`` in float32 on the CPU and exit with status 1 on a
difference. The third lets OpenRLHF's rollout code query a running service and prints the rewards
that it arrives at. Kernels that OpenRLHF imports but a reward model on a CPU never calls
(deepspeed, flash_attn) are replaced by empty modules if they are not installed. OpenRLHF's table of
dtypes has only 16-bit formats and is extended by float32.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable
from importlib import import_module, machinery, util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

TOLERANCE = 1e-4
UNUSED = {
    "deepspeed": (),
    "flash_attn": (),
    "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
    "flash_attn.utils": (),
    "flash_attn.utils.distributed": ("all_gather",),
}


def replace_missing() -> list[str]:
    """Install empty modules for missing kernels, whose functions raise; return their names."""
    import sys

    for name in (
        "transformers",
        "peft",
        "accelerate",
    ):  # import first: they probe what is installed
        import_module(name)
    missing = [name for name in UNUSED if util.find_spec(name.split(".")[0]) is None]
    for name in missing:
        module = ModuleType(name)
        module.__spec__ = machinery.ModuleSpec(name, None)
        module.__path__ = []
        for function in UNUSED[name]:
            setattr(module, function, _raise_replaced)
        sys.modules[name] = module
    return missing


def _raise_replaced(*_args: Any, **_settings: Any) -> NoReturn:
    raise RuntimeError("a kernel that was replaced by an empty module was called")


def openrlhf(directory: Path, golden: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Rewards of the model of ``openrlhf.cli.serve_rm``, which pads on the left."""
    print("replaced by empty modules:", ", ".join(replace_missing()) or "nothing")
    torch = import_module("torch")
    helpers: Any = import_module("openrlhf.utils.utils")
    helpers.convert_to_torch_dtype = lambda _name: torch.float32
    settings = SimpleNamespace(
        reward=SimpleNamespace(model_name_or_path=str(directory), normalize_enable=False),
        ds=SimpleNamespace(
            attn_implementation="eager",
            experts_implementation=None,
            param_dtype="float32",
            load_in_4bit=False,
            value_head_prefix="score",
            packing_samples=False,
        ),
        data=SimpleNamespace(disable_fast_tokenizer=False, max_len=2048),
        batch_size=None,
    )
    proxy = import_module("openrlhf.cli.serve_rm").RewardModelProxy(settings)
    decoded = [proxy.tokenizer.decode(item["token_ids"]) for item in golden]
    rendered = [
        proxy.tokenizer.apply_chat_template(item["messages"], tokenize=False) for item in golden
    ]
    return {
        "token ids as text": proxy.get_reward(decoded),
        "messages by the template": proxy.get_reward(rendered),
    }


def vllm(directory: Path, golden: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Rewards of vLLM, as of ``vllm serve --runner pooling --convert classify``."""
    tool = import_module("vllm")
    engine = tool.LLM(
        str(directory), runner="pooling", convert="classify", dtype="float32", enforce_eager=True
    )
    by_ids = engine.classify([{"prompt_token_ids": item["token_ids"]} for item in golden])
    return {"token ids": [row.outputs.probs[0] for row in by_ids]}


def client(address: str, pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Results of OpenRLHF's rollout for (prompt, response) pairs that a service scores."""
    replace_missing()
    executor = import_module("openrlhf.utils.agent").SingleTurnAgentExecutor(address)
    sampling = SimpleNamespace(max_tokens=64, logprobs=None)

    async def roll_out(prompt: str, response: str) -> dict[str, Any]:
        engine = SimpleNamespace(generate=_generating(response))
        return await executor.execute(prompt, "", sampling, 4096, CharacterTokenizer(), engine)

    async def roll_out_all() -> list[dict[str, Any]]:
        return [await roll_out(*pair) for pair in pairs]

    return asyncio.run(roll_out_all())


class CharacterTokenizer:
    """A tokenizer of characters with an end-of-sequence token, as chat models emit."""

    end = 0x110000

    def __call__(self, *, text: str, **_settings: Any) -> dict[str, Any]:
        return {"input_ids": import_module("torch").tensor([[ord(letter) for letter in text]])}

    def decode(self, ids: list[int], **_settings: Any) -> str:
        return "".join("</s>" if token == self.end else chr(token) for token in ids)


def _generating(response: str) -> Callable[..., Any]:
    ids = [*map(ord, response), CharacterTokenizer.end]

    async def generate(*_args: Any, **_settings: Any) -> Any:
        output = SimpleNamespace(token_ids=ids, finish_reason="stop", logprobs=None)
        return SimpleNamespace(outputs=[output])

    return generate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("tool", choices=["openrlhf", "vllm", "client"])
    parser.add_argument("where", help="an export of tier collapsed, or the address of a service")
    options = parser.parse_args()
    if options.tool == "client":
        prompt = "How do I boil an egg?"
        for result in client(options.where, [(prompt, "Seven minutes."), (prompt, "Egg party!")]):
            keys = ("observation_tokens", "reward", "scores", "extra_logs")
            print(json.dumps({key: result[key] for key in keys[1:]}))
        return 0
    directory = Path(options.where)
    golden = json.loads((directory / "golden.json").read_text("utf-8"))
    replay = openrlhf if options.tool == "openrlhf" else vllm
    worst = 0.0
    for way, rewards in replay(directory, golden).items():
        differences = [
            abs(reward - item["scores"][0]) for reward, item in zip(rewards, golden, strict=True)
        ]
        print(f"{options.tool}, {way}: largest difference {max(differences):.1e}")
        worst = max(worst, *differences)
    return 0 if worst < TOLERANCE else 1


if __name__ == "__main__":
    raise SystemExit(main())
