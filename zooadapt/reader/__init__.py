"""The reader's side of a mirror: find, pull and load variants, or make those that it lacks."""
