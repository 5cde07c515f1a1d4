"""All tests. A package, so that tests of the same name in two folders do not meet."""
