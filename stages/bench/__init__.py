"""Programs of the bench alone: what is timed inside an image."""
