"""Scripts: the batch job, benchmarks, and tools for developers of zooadapt."""
