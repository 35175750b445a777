"""From a model's name to named tensors: find its file, fetch it, vet it, read it."""
