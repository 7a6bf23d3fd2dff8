"""Run directories: ``record.json``, the checksums it keeps, and which stages are done."""
