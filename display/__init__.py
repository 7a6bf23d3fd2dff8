"""Pages, tables and figures of results. Nothing here is part of what a stage depends on."""
