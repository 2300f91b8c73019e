"""The vocabulary below images and engines: a job, an image."""
