"""Text to features: sources, chat rendering, planning, the frozen backbone. No JAX here."""
