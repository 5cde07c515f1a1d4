"""How late an urgent message is while megabytes are on their way to the same client. Tables: docs/urgency.md."""
