"""Sample media from formulas: a landscape with a tune, and a before/after picture. No downloads."""
