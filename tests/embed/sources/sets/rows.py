"""A good row of every published data set with one comparison a row: "Good" is the better answer."""

from __future__ import annotations

from typing import Any

from micro_rm.embed.sources.pair import Message

HELLO, AGAIN, KIND = Message("user", "Hello"), Message("user", "Again"), Message("system", "Kind.")
TALK = (HELLO, Message("assistant", "Hi"), AGAIN)


def said(answer: str, *prompt: Message) -> list[dict[str, str]]:
    return [turn._asdict() for turn in (*prompt, Message("assistant", answer))]


def told(answer: str, prompt: str = "Hello\n\nAssistant: Hi\n\nHuman: Again") -> str:
    return f"\n\nHuman: {prompt}\n\nAssistant: {answer}"


BOTH = {"chosen": "Good", "rejected": "Bad"}
ROWS: dict[str, dict[str, Any]] = {
    "hh_rlhf": {"chosen": told("Good"), "rejected": told("Bad")},
    "capybara": {"chosen": said("Good", *TALK), "rejected": said("Bad", *TALK)}
    | {"rating_chosen": 5, "rating_rejected": 2},
    "preference_700k": {"chosen": said("Good", KIND, *TALK), "rejected": said("Bad", KIND, *TALK)}
    | {"chosen_score": 3.5, "rejected_score": 1.0},
    "orca_pairs": BOTH
    | {"system": "Kind.", "input": "Hello", "status": "swapped"}
    | {"chosen_score": 8.0, "in_gsm8k_train": False},
    "ultrainteract": BOTH
    | {"trajectory": [{"from": turn.role, "value": turn.content} for turn in TALK]},
    "reward_bench": BOTH | {"prompt": "Hello", "subset": "hep-go"},
    "reward_bench_2": {"prompt": "Hello", "subset": "Ties"}
    | {"chosen": ["Good", "Fine"], "rejected": ["Bad", "Worse"]},
    "shp": {"domain": "askbaking_train", "history": "Hello", "score_A": 40, "score_B": 12}
    | {"human_ref_A": "Good", "human_ref_B": "Bad", "labels": 1},
    "pku_saferlhf": {"prompt": "Hello", "response_0": "Good", "response_1": "Bad"}
    | {"is_response_0_safe": True, "is_response_1_safe": False}
    | {"better_response_id": 1, "safer_response_id": 0},
    "rpr": {"prompt": "Hello", "response_a": "Good", "response_b": "Bad"}
    | {"criteria_x": "Be exact.", "category_x": "Scientific Rigor"}
    | {"criteria_y": "Tell a tale.", "category_y": "Narrative & Storytelling Quality"},
}
SAFE = {"is_response_0_safe": True, "is_response_1_safe": True}
EMOTIONAL = {"category_x": "Emotional Tone"}
