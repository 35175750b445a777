"""Zoos of users' own checkpoints: folders below a URL, and listed repositories on the Hub."""
