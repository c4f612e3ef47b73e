"""The card driver: what the host says to a card and makes of its answers (docs/understand/apdu.md)."""
