"""One run: what was asked, what it is made on, its stages, its record."""
