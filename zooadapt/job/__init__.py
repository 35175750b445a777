"""One run of the batch job, from its options to its closing lines."""
