"""From a model's name to named tensors: find the checkpoint, fetch it, vet it, read it."""
