"""What every entry point shares: command line, errors, progress, writing files, workers."""
