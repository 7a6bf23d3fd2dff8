"""Fixed prompts and responses on which every export is verified.

They are neutral and were written for this purpose, so that no data set contains them.
"""

from __future__ import annotations

from ...embed.chat import Conversation
from ...embed.sources.pair import Message

PROMPTS = (
    "How do I keep basil alive on a window sill?",
    "Explain why the sky is blue.",
    "Write a short note to thank a neighbour.",
    "What should I pack for three days in the mountains?",
    "My code prints nothing. Where do I start looking?",
    "Suggest a simple dinner with rice and beans.",
    "Is it better to run in the morning or in the evening?",
    "Summarise what a central bank does.",
)
RESPONSES = (
    "Give it light and little water, and pinch off the tips.",
    "Air scatters blue light more than red light. That is why we see blue in every direction.",
    "Thank you for watching the cat. She came back rounder, and so did the plants.",
    "Layers, a rain jacket, water, food, a map and a torch.",
    "Print something on the first line. If you do not see it, another file is running.",
    "Fry onions and garlic, add beans and tomatoes, and eat it with the rice.",
    "Whichever you will still do in a month.",
    "It sets interest rates, watches over banks and keeps prices stable.",
)
CONTEXT = "Keep it short."


def sample_conversation() -> Conversation:
    """One prompt with its response."""
    return Conversation((Message("user", PROMPTS[1]),), RESPONSES[1])


def sample_messages() -> tuple[Message, ...]:
    """``sample_conversation`` as a user and an assistant message."""
    return Message("user", PROMPTS[1]), Message("assistant", RESPONSES[1])
