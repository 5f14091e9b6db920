"""The built-in starter weights: they let a machine with no way to the hub do the whole job.

``provenance.json`` says how each file was trained and measured, and from which checkpoint it was
made; `make` made them. They are found by :func:`upframe.filters.weights.resolve_weights`.
"""
