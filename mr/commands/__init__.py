"""The commands of `mr`: one module for those that share a subject. Each is imported when it runs."""
