"""Commands of the command line, one module per group; ``pipeline.py`` dispatches to them."""
