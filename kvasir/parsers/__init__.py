"""Finds reasoning and tool calls in what a model writes, while it writes.

*Ring*: front. Text in pieces -> reasoning, content, calls with names and arguments.
However the text is cut, the result is the same; nothing is dropped, and no mark of a call leaks into content.
*Knows nothing about*: tokens, HTTP, requests, how prompts are made.
"""

from kvasir.parsers.events import (
    ContentDelta,
    Event,
    ReasoningDelta,
    ToolArgumentsDelta,
    ToolCallEnd,
    ToolCallStart,
)
from kvasir.parsers.families import ReasoningFamily, ToolFamily
from kvasir.parsers.machines.think import Think, starts_inside
from kvasir.parsers.machines.xml import XmlStyle
from kvasir.parsers.parser import Parser, ReasoningThenCalls
from kvasir.parsers.reader import SPACES
from kvasir.parsers.registry import detect_tool_family, reasoning_family, tool_family
from kvasir.parsers.values import ToolSchema, is_text
from kvasir.parsers.writing import CallStyle, Frame

__all__ = [
    "SPACES",
    "CallStyle",
    "ContentDelta",
    "Event",
    "Frame",
    "Parser",
    "ReasoningDelta",
    "ReasoningFamily",
    "ReasoningThenCalls",
    "Think",
    "ToolArgumentsDelta",
    "ToolCallEnd",
    "ToolCallStart",
    "ToolFamily",
    "ToolSchema",
    "XmlStyle",
    "detect_tool_family",
    "is_text",
    "reasoning_family",
    "starts_inside",
    "tool_family",
]
