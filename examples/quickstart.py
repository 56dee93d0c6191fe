"""Offline answers from the bundled model: `python examples/quickstart.py`."""

from kvasir import LLM, SamplingParams

QUESTIONS = [
    "What is 123 + 456?",
    "Reverse the word planet.",
    "What is the capital of France?",
    "How many times does the letter e appear in cheese?",
    "Sort these numbers: 31, 7, 19.",
]


def main() -> None:
    llm = LLM()
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    answers = llm.chat(chats, SamplingParams(temperature=0, max_tokens=64), use_tqdm=False)
    for question, answer in zip(QUESTIONS, answers, strict=True):
        print(f"{question}\n  {answer.outputs[0].text.strip()}")
    llm.shutdown()


if __name__ == "__main__":
    main()
