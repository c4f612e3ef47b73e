"""The workstation of figure 1 (110): works with a card and with a server, in this process or remote."""
