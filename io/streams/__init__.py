"""A source's other streams: which a container holds, and how they get there."""
