"""One replica of a state machine: Raft by pysyncobj, made safe at its edges. Knows no job and no task."""
