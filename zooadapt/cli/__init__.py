"""The commands of `zooadapt`."""
