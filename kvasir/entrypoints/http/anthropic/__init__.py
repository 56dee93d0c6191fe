"""Anthropic's Messages API as a translation: content blocks in -> a chat -> typed events and content blocks out.

Ring: front. Knows nothing about: engines, tokens, how a chat is answered.
"""
