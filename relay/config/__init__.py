"""The configuration: what can be set (schema), how it is read (loader) and shown (render)."""
