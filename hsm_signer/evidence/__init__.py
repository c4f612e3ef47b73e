"""Evidence: what was asked of a credential and what came of it, so that nobody can change it unseen.

``chain`` links entries, ``merkle`` hashes many chains into one root, ``anchor`` is that root to keep
elsewhere, ``audit`` holds records, chains and anchor against each other. Pure functions, no SQL, no token.
"""
