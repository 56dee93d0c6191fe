"""What a newcomer pastes, and what a vLLM user brings: both run as they stand."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

VLLM_SCRIPT = """
from vllm import LLM, SamplingParams

prompts = ["What is 1 + 1?", "Reverse the word cat."]
sampling_params = SamplingParams(temperature=0.8, top_p=0.95, max_tokens=12)
llm = LLM(model="kvasir-demo", max_model_len=512, gpu_memory_utilization=0.5, enforce_eager=True, seed=0)
outputs = llm.generate(prompts, sampling_params)
for output in outputs:
    print(f"Prompt: {output.prompt!r}, Generated text: {output.outputs[0].text!r}")
conversation = [{"role": "system", "content": "You are helpful."}, {"role": "user", "content": "Hello"}]
outputs = llm.chat(conversation, SamplingParams(temperature=0, max_tokens=8), use_tqdm=False)
print(len(outputs), outputs[0].outputs[0].finish_reason in ("stop", "length"))
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readmes_first_program() -> None:
    (program,) = re.findall(r"## The first program\s+```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(program.strip().splitlines()) <= 3
    assert run(program).strip()


def test_a_vllm_script_with_only_the_import_changed() -> None:
    lines = run(VLLM_SCRIPT.replace("from vllm", "from kvasir")).splitlines()
    assert lines[0].startswith("Prompt: 'What is 1 + 1?', Generated text: '")
    assert lines[-1] == "1 True"


def test_run_batch_answers_every_line_once(tmp_path: Path) -> None:
    lines = [
        {
            "custom_id": f"line-{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": f"What is {i} + 1?"}], "max_tokens": 8, "temperature": 0},
        }
        for i in range(40)
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "not json\n")
    command = [
        sys.executable,
        "-m",
        "kvasir",
        "run-batch",
        "-i",
        str(tmp_path / "in.jsonl"),
        "-o",
        str(tmp_path / "out.jsonl"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode in (0, 1), done.stderr
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    good = {a["custom_id"]: a for a in answers if a.get("custom_id")}
    assert sorted(good) == sorted(line["custom_id"] for line in lines)
    assert all(a["response"]["body"]["choices"][0]["message"]["content"] for a in good.values())
    assert len(answers) == 41
    assert next(a for a in answers if not a.get("custom_id"))["error"] is not None
