"""From outputs to hypotheses, and from hypotheses to rates."""
