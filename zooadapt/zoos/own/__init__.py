"""Checkpoints of one's own: folders below a URL, and lists of Hub repositories."""
