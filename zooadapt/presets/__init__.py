"""Presets of named bands: one YAML file for each sensor, read by `zooadapt.bands`."""
