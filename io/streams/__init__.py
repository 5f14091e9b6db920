"""A source's other streams: which ones a container can hold, copied or converted."""
