"""Pages, tables and figures of results.

Stages do not depend on this package, so that changing a style sheet marks no stage as outdated.
"""
