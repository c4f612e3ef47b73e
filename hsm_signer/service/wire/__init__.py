"""What crosses the border between the front and the workers: bytes and frozen records, never handles."""
