"""A run shown to a person while it goes on."""
