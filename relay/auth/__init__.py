"""Who a client is and what it may do: tokens, keys, grants. Pure; the caller brings `now`."""
