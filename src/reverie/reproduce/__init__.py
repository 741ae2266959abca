"""Papers measured again: their tables, ours beside theirs."""
