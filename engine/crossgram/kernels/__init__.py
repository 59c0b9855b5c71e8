"""Array work of one tile of rows, one module per backend with the same few names."""
