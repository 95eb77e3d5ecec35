"""The steps of a run as the command line offers them: each opens what it needs, works, and records what it did."""
