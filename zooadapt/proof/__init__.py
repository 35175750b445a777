"""Prove variants: run each, and compare its outputs with base(M·x)."""
