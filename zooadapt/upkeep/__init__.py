"""Maintenance of a mirror: verify, collect garbage, rebuild the tables, remove models, sync."""
