"""Preference rows to try the tutorial with: a seeded population of six opposed tastes.

    python docs/tutorial/example.py [PROMPTS] > preferences.jsonl

The text is synthetic. Every row names a taste (attribute), the wish in words (context) and who
judged (user); your own file needs only prompt, chosen and rejected.
"""

from __future__ import annotations

import json
import sys

from micro_rm.configs.data import DataConfig, SyntheticConfig
from micro_rm.embed.sources import open_pairs

prompts = int(sys.argv[1]) if len(sys.argv) > 1 else 120
settings = SyntheticConfig(prompts=prompts, seed=3)
source = open_pairs(DataConfig(source="synthetic", synthetic=settings))
for number, pair in enumerate(source):
    row = {
        "prompt": pair.prompt[0].content,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "attribute": pair.attribute,
        "context": pair.context,
        "user": f"{pair.attribute}-{number % 3}",
        "split": pair.split,
    }
    print(json.dumps(row))
