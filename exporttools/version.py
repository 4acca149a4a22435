"""The version. Nothing may come in here."""

__version__ = "0.1.0"
