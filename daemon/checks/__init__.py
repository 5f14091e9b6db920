"""What the doctor looks at, one file a field; each gives findings and raises nothing."""
