"""The database outside the token: records, their compare-and-swap, and the evidence that goes with them.

``store`` is the door, ``schema`` the tables, ``rows`` turns rows into records and back without trusting
them, ``database`` opens SQLite or PostgreSQL and puts their errors into our words, ``migrations`` are
Alembic's.
"""
