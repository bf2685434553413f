"""Attacks a running cluster from outside and judges what it did. Talks to it as a client does."""
