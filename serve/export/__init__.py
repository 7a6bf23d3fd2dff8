"""A run as a model of other tools: collapsed, multihead, routed."""
