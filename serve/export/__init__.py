"""Export of trained runs as models that other tools load: collapsed, multihead or routed."""
