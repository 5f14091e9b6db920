"""The built-in starter weights: they let a machine with no way to the hub do the whole job.

``provenance.json`` records how each file was trained and measured, and from which checkpoint `make`
made it. They are found by :func:`upframe.filters.weights.resolve_weights`.
"""
