"""One worker: a process with one token session, behind a socket. All authority is decided here."""
