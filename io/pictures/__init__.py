"""PyAV's frames ⇄ pictures: planes bit for bit, colour tags and other metadata; labels."""
