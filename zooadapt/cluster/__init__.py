"""Many models on Ray: what runs when, and on which node."""
