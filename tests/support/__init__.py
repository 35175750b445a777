"""Real servers and realistic checkpoints for the tests."""
