"""The masters: a replicated task table, a leader that schedules, and what people ask of them. No user code here."""
