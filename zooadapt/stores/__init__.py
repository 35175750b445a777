"""The stores that can hold a mirror: folders, S3, web servers, and any fsspec filesystem."""
