"""Presets of named bands, one YAML file a sensor; installed as zooadapt.presets."""
