"""The daemon: schedules sources, filters and sinks, and talks to people."""
