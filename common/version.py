"""The version of the package, as stores, exports and the service record it."""

__version__ = "0.2.0"
