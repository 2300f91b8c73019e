"""What everything else stands on: errors, files, paths, TOML; imports nothing of the packages above."""
