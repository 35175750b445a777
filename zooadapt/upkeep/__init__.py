"""Care of a mirror: verify, collect garbage, rebuild, remove, sync."""
