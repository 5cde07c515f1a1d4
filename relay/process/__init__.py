"""The rooms behind the server: what it is made of, and what goes on beside its connections."""
