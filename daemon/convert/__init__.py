"""One file or pipe, converted once: the pipeline, its compute and its report."""
