"""Code that workstation and server share: encodings, names, algorithms, and small tools."""
