"""Where a mirror lies: folders, S3, web servers, and whatever else fsspec knows."""
