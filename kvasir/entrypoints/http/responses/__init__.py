"""OpenAI's Responses API as a translation: items in -> a chat -> typed events and items out, kept for a while.

Ring: front. Knows nothing about: engines, tokens, how a chat is answered.
"""
