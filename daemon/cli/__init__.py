"""The commands of `upframe`: a file each, with its options and what it prints."""
