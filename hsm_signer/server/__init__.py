"""The server of figure 1 (130): token and store together, the steps of docs/protocol.md in their order."""
