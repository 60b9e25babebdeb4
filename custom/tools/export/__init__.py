"""Export, packing, verification."""
