"""What users of a mirror call: find, pull, load, and make what is lacking."""
