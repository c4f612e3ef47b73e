"""The Cloud Signature Consortium's interface, versions 2 and 1."""
