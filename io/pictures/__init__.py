"""PyAV's frames ⇄ pictures: planes bit for bit, colour tags, and what travels beside the pixels."""
