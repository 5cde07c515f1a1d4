"""`python -m benchmarks.urgency` is `python -m benchmarks.urgency.run`."""

from benchmarks.urgency.run import main

if __name__ == "__main__":
    main()
