"""Configuration files: of an installation, of the service, and the folder they lie in."""
