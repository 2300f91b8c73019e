"""The demo corpus and the demo checkpoint."""
