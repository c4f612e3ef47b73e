"""Sign with keys that a smart card controls and an HSM uses, one message at a time (EP 0725512)."""

__version__ = "0.1.0"
