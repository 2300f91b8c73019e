"""From intents to locks: what is fetched is decided here, with a network."""
