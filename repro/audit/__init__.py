"""Audits: a run proven or refuted by someone who does not trust whoever made it."""
