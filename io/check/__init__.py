"""What a file really holds: one picture tried before the work, all packets read after it."""
