"""What each stable code means, why it comes, and what to do: for `relay explain` and the pages in docs/codes."""
