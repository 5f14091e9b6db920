"""The built-in starter weights: they let a machine with no way to the hub do the whole job.

``provenance.json`` records how each file was trained and measured, and from which checkpoint
`bench/builtin_weights.py` made it. :func:`upframe.filters.weights.resolve_weights` finds them.
"""
