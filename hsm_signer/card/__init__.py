"""The card driver: commands to a card and the reading of its answers (docs/understand/apdu.md)."""
