"""What a person types, and what he sees of it: tasks, checks, doctor."""
