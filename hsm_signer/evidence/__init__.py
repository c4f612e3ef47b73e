"""Evidence: requests to a credential and their outcomes, in chains that nobody can change unnoticed.

``chain`` links entries, ``merkle`` hashes many chains into one root, ``anchor`` is that root to keep
elsewhere, ``audit`` holds records, chains and anchor against each other. Pure functions, no SQL, no token.
"""
