"""A conversation, streamed token by token, with the asynchronous engine: `python examples/chat.py`.

`kvasir chat` is the finished form of this; here is how it is built.
"""

import asyncio

from kvasir import AsyncEngineArgs, AsyncLLM, SamplingParams
from kvasir.messages import RequestOutputKind

TURNS = ["My name is Ada.", "What is my name?", "What is 12 + 30?"]


async def answer(engine: AsyncLLM, messages: list[dict[str, str]]) -> str:
    """Prints the answer while it is made, and returns it."""
    prompt = engine.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    # The template has written the special tokens already.
    token_ids = engine.tokenizer.encode(prompt, add_special_tokens=False)
    params = SamplingParams(temperature=0, max_tokens=128, output_kind=RequestOutputKind.DELTA)
    text = ""
    async for output in engine.generate({"prompt_token_ids": token_ids}, params):
        print(output.outputs[0].text, end="", flush=True)
        text += output.outputs[0].text
    print()
    return text


async def main() -> None:
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs())
    messages: list[dict[str, str]] = []
    try:
        for turn in TURNS:
            print(f"> {turn}")
            messages.append({"role": "user", "content": turn})
            messages.append({"role": "assistant", "content": await answer(engine, messages)})
    finally:
        engine.shutdown()


if __name__ == "__main__":  # the core runs in a process of its own, so this line is needed
    asyncio.run(main())
