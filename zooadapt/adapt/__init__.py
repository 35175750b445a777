"""The maths of adaptation: the matrix M of a scheme, the stems W of a model, and W·M."""
