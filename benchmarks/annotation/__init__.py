"""What the annotation app promises, at full size and on both databases: `make faults-annotation`."""
