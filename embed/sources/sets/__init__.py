"""Published data sets: one file each, registered in ``embed.sources`` by exact name."""
