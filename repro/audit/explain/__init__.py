"""Why two layers, images, results or runs differ: each file, its cause, its first differing bytes, and what follows."""
