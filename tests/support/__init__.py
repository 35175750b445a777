"""What several test modules share: servers, checkpoints, mirrors, and ways to check them."""
