"""Models that ship with Kvasir."""
