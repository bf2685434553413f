"""From a mapper's pairs to a reducer's groups: partition, combine, sort, spill, merge. No network here."""
