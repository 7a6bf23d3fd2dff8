"""The Python interface: what ``import micro_rm`` offers, and what the command line is built on.

Nothing here prints. Progress is shown on a terminal and in a notebook, unless it is turned off.
"""
