"""What the published guide says, and a run held to it."""
