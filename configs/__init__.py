"""What may be chosen: one frozen dataclass per stage, the loader and the run record."""
