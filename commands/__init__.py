"""Commands that are no stage of the pipeline, and what its stages are reported and kept by."""
