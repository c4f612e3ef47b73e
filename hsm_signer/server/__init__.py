"""The server of figure 1 (130): token and store together, in the steps of docs/understand/protocol.md."""
