"""Text models, one thin file an architecture."""
