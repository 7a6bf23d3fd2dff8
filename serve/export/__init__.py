"""Export of a trained run to other tools, in three tiers: collapsed, multihead and routed."""
