"""From an input's bytes to frames of one form, none skipped, none made up."""
