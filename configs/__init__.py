"""Configuration: one frozen dataclass per section, and the parser of YAML files and flags."""
