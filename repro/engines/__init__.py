"""Engines: what runs a command in an image. One interface, three implementations."""
