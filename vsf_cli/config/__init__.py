"""How options and the values in them are read. Knows no models and no methods."""
