"""The mirror's format: tables, records, runs, and the folder of a variant."""
