"""The card driver: what the host says to a card (docs/apdu.md), and what it makes of the answers."""
