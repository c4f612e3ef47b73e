"""What both sides of the patent's figure 1 must agree on: bytes, names and algorithms.."""
