"""Tools for developers of zooadapt: conformance, parity with timm, seeded weights, simulation."""
