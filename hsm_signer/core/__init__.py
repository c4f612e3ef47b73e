"""What both sides of the patent's figure 1 must agree on: bytes, names, algorithms; and what both use."""
