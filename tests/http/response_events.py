"""A strict reader of response streams: what the events say, step by step, must be what the last one says."""

from collections.abc import Iterable
from typing import Any

TERMINAL = ("response.completed", "response.incomplete", "response.failed")


def check(events: Iterable[Any]) -> Any:
    """The final response, once the events before it have added up to it."""
    items: list[dict[str, Any]] = []
    final = None
    open_item = open_part = None
    for number, event in enumerate(events):
        assert event.sequence_number == number and final is None
        kind = event.type
        if number < 2:
            assert kind == ("response.created", "response.in_progress")[number]
            assert event.response.status == "in_progress" and event.response.output == []
        elif kind == "response.output_item.added":
            assert open_item is None and event.output_index == len(items)
            item = event.item
            assert item.status == "in_progress"
            open_item = {"id": item.id, "type": item.type, "text": "", "logprobs": []}
            if item.type == "function_call":
                assert item.arguments == "" and item.call_id and item.name
            else:
                assert item.content == []
            items.append(open_item)
        elif kind == "response.content_part.added":
            assert open_part is None and event.item_id == open_item["id"] and event.content_index == 0
            assert event.part.text == ""
            open_part = event.part.type
        elif kind.endswith(".delta"):
            assert event.item_id == open_item["id"] and event.output_index == len(items) - 1 and event.delta
            open_item["text"] += event.delta
            open_item["logprobs"] += getattr(event, "logprobs", None) or []
        elif kind in ("response.output_text.done", "response.reasoning_text.done"):
            assert event.text == open_item["text"]
        elif kind == "response.function_call_arguments.done":
            assert event.arguments == open_item["text"] and event.name
        elif kind == "response.content_part.done":
            assert event.part.type == open_part and event.part.text == open_item["text"]
            open_part = None
        elif kind == "response.output_item.done":
            assert open_part is None and event.item.id == open_item["id"]
            open_item["done"] = event.item
            open_item = None
        else:
            assert kind in TERMINAL and open_item is None
            final = event.response
    assert final is not None
    assert final.output == [item["done"] for item in items]
    return final
