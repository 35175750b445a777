"""Tools for developers of zooadapt: conformance, seeded weights, simulation."""
