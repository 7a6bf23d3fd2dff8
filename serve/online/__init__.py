"""Online learning of every person's head weights from their comparisons."""
