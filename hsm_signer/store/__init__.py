"""The database outside the token: records, their compare-and-swap, and the evidence that goes with them.

``store`` is the door; behind it ``pages``, ``snapshot``, ``client_rows`` and ``certificate_rows`` are groups
of its methods. ``schema`` has the tables, ``statements`` the SQL; ``rows`` and ``fields`` turn rows into
records and back without trusting them; ``database`` opens SQLite or PostgreSQL and puts their errors into our
words; ``versions`` and ``migrations``, which are Alembic's, bring one version of the schema to the next.
"""
