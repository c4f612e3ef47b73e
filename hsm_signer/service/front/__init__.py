"""The front: HTTPS to the outside, the workers' sockets to the inside.

It holds no key, no PIN and no way to token or store, and decides nothing: it checks the form of what comes,
passes it to a worker with what it saw of the caller, and tells the answer.
"""
