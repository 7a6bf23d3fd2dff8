"""Score predictions on held-out pairs: metrics with intervals, diagnostics, report.json."""
