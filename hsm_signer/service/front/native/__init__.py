"""The native interface: /v1."""
