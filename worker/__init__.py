"""Carries out tasks: `agent` decides, `runtime` acts. User code is never imported here."""
