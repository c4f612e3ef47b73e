"""One module per revision; schema.REVISIONS lists them."""
