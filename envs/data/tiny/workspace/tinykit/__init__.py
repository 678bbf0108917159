"""Three small modules that exist to be broken and mended."""
