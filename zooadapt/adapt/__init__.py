"""The maths: the matrix M of a scheme, the stems of a model, and W·M."""
