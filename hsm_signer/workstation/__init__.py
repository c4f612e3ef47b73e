"""The workstation of figure 1 (110): the card here, the server near or far."""
