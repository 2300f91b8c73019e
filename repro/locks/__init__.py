"""Lock files as values: what is fetched, by sha256, and how Debian's signatures prove it."""
