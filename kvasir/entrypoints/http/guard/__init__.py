"""What stands in front of every route: keys, scopes, rates, quotas, deadlines; and what is counted per key."""
