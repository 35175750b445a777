"""Whether a variant computes base(M·x): run it, and compare."""
