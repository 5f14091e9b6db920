"""Jobs: what they are, how their state may change, and the store that never forgets one."""
