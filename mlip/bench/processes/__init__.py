"""Scripts that run as processes of their own, some in other environments; nothing here is imported by mlip."""
