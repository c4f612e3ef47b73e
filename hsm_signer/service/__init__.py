"""The server on a network: front, workers, and what passes between them."""
