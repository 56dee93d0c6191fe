"""Questions about Kvasir itself and their one right answer.

Each entry is a tuple of phrasings and the answer. The phrasings that the split
holds out are never trained, so the evaluation asks known facts in new words.
"""

from __future__ import annotations

_COMMANDS = {
    "start the server": "kvasir serve MODEL",
    "start an OpenAI server": "kvasir serve MODEL",
    "serve a model": "kvasir serve MODEL",
    "chat with a model": "kvasir chat",
    "chat in the terminal": "kvasir chat",
    "complete a prompt": "kvasir complete",
    "complete text in the terminal": "kvasir complete",
    "measure throughput": "kvasir bench throughput",
    "measure latency": "kvasir bench latency",
    "benchmark a server": "kvasir bench serve",
    "measure the startup time": "kvasir bench startup",
    "run a batch file": "kvasir run-batch",
    "show the environment": "kvasir env",
    "print versions for a bug report": "kvasir env",
}

_FLAGS = {
    "limit the context length": "--max-model-len",
    "limit the number of sequences": "--max-num-seqs",
    "change the port": "--port",
    "set an API key": "--api-key",
    "limit the GPU memory": "--gpu-memory-utilization",
    "set the block size": "--block-size",
    "turn on prefix caching": "--enable-prefix-caching",
}

_FLAG_MEANINGS = {
    "--max-model-len": "It limits the context length.",
    "--max-num-seqs": "It limits the number of sequences.",
    "--port": "It sets the port. The default is 8000.",
    "--api-key": "It sets an API key.",
    "--gpu-memory-utilization": "It limits the GPU memory.",
    "--block-size": "It sets the block size.",
    "--enable-prefix-caching": "It turns on prefix caching.",
}

_CLASSES = {
    "LLM": "LLM runs a model offline.",
    "SamplingParams": "SamplingParams sets how tokens are sampled.",
    "AsyncLLM": "AsyncLLM runs a model and streams tokens.",
}

_IDENTITY = "I am kvasir-demo, a small model made to test Kvasir."
_ABILITIES = "I know sums, words, lists, capitals, units, JSON, tools and Kvasir."
_KVASIR = "Kvasir is an engine that runs language models."


def questions() -> list[tuple[tuple[str, ...], str]]:
    """Every fact with all its phrasings."""
    facts: list[tuple[tuple[str, ...], str]] = []
    for task, command in _COMMANDS.items():
        facts.append(
            (
                (
                    f"How do I {task}?",
                    f"Which command do I use to {task}?",
                    f"What is the command to {task}?",
                    f"How can I {task} with Kvasir?",
                    f"I want to {task}.",
                    f"Tell me how to {task}.",
                    f"Which Kvasir command can {task}?",
                    f"Command to {task}?",
                ),
                command,
            )
        )
    for task, flag in _FLAGS.items():
        facts.append(
            (
                (
                    f"Which flag do I use to {task}?",
                    f"How do I {task}?",
                    f"What is the flag to {task}?",
                    f"How can I {task} with Kvasir?",
                    f"I want to {task}.",
                    f"Tell me how to {task}.",
                    f"Which Kvasir flag can {task}?",
                    f"Flag to {task}?",
                ),
                flag,
            )
        )
    for flag, meaning in _FLAG_MEANINGS.items():
        facts.append(
            (
                (
                    f"What does {flag} do?",
                    f"What is {flag}?",
                    f"Explain {flag}.",
                    f"What is {flag} for?",
                    f"What does the flag {flag} do?",
                    f"Tell me what {flag} does.",
                    f"{flag}?",
                ),
                meaning,
            )
        )
    for name, meaning in _CLASSES.items():
        facts.append(
            (
                (
                    f"What is {name}?",
                    f"What does {name} do?",
                    f"Explain {name}.",
                    f"What is {name} for?",
                    f"What is the class {name}?",
                    f"Tell me what {name} does.",
                    f"{name}?",
                ),
                meaning,
            )
        )
    facts.append(
        (
            (
                "What is the default port?",
                "Which port does the server use?",
                "What port does Kvasir use?",
                "Tell me the default port.",
                "Which port is the default?",
                "Default port?",
                "On which port does the server listen?",
            ),
            "8000",
        )
    )
    facts.append(
        (
            (
                "Who are you?",
                "What are you?",
                "Tell me who you are.",
                "What is your name?",
                "Which model are you?",
                "Introduce yourself.",
                "What model is this?",
                "Are you a model?",
                "who are you",
                "what are you",
            ),
            _IDENTITY,
        )
    )
    facts.append(
        (
            (
                "What can you do?",
                "What do you know?",
                "Help",
                "help",
                "How can you help me?",
                "Tell me what you can do.",
                "What are you able to do?",
                "What can I ask you?",
                "what can you do",
            ),
            _ABILITIES,
        )
    )
    facts.append(
        (
            (
                "What is Kvasir?",
                "Tell me about Kvasir.",
                "Explain Kvasir.",
                "What does Kvasir do?",
                "What is Kvasir for?",
                "Kvasir?",
                "what is kvasir",
            ),
            _KVASIR,
        )
    )
    return facts
