"""What outlives the process: the messages of durable rooms, on disk."""
