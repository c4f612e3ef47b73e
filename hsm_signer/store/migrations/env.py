"""Alembic runs this: migrate on the connection the store hands over, inside its transaction.

There is no alembic.ini and no offline mode: the store alone runs migrations, and it knows its database.
"""

from alembic import context

from hsm_signer.store.schema import VERSION_TABLE, metadata

# The transaction is the store's: all migrations and the new version number, or nothing.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
