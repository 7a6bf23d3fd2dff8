"""Many settings fitted together and scored into one table."""
