"""Wire formats: what a client's bytes mean, and how answers look. Sans-IO."""
