"""Live streams: the session of one stream, its levels and their governor, and who keeps them up."""
