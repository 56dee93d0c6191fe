"""LLM: offline batches. `LLM(model=...).generate(prompts, SamplingParams(...))`."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kvasir.config import EngineArgs
from kvasir.engine.input import default_sampling_params
from kvasir.engine.llm_engine import LLMEngine
from kvasir.errors import UserError
from kvasir.messages import Prompt, RequestOutput, RequestOutputKind, SamplingParams
from kvasir.tokenizer import Tokenizer

Conversation = list[dict[str, Any]]


class LLM:
    """A model in this process, for batches of any size; the same call shapes as vLLM's class.

    Args:
        model: folder or hub id; the bundled demo model when left out.
        engine_args: any option of `kvasir serve` by its name, e.g. `max_model_len=4096`.

    Raises:
        ConfigError: an option is unknown or cannot work; the text says what to do.
    """

    def __init__(self, model: str | None = None, **engine_args: Any):
        self.llm_engine = LLMEngine.from_engine_args(EngineArgs(model, **engine_args))
        self._ids = itertools.count()

    @classmethod
    def from_engine_args(cls, args: EngineArgs) -> "LLM":
        self = cls.__new__(cls)
        self.llm_engine = LLMEngine.from_engine_args(args)
        self._ids = itertools.count()
        return self

    # -- generation -----------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        priority: Sequence[int] | None = None,
        cache_salt: str | None = None,
    ) -> list[RequestOutput]:
        """Completes each prompt; outputs are in the order of the prompts.

        Args:
            prompts: one or many of: text, token ids, {"prompt": ...}, {"prompt_token_ids": [...]}.
            sampling_params: one for all, or one per prompt; the model's own defaults when left out.
            priority: lower runs first (with --scheduling-policy priority), one per prompt.

        Raises:
            UserError: a prompt or its parameters are wrong; nothing has been run then.
        """
        many = _as_list(prompts)
        params = self._params_for(many, sampling_params)
        if priority is not None and len(priority) != len(many):
            raise UserError(f"priority has {len(priority)} entries for {len(many)} prompts.", param="priority")
        ids: list[str] = []
        try:
            for i, (prompt, p) in enumerate(zip(many, params, strict=True)):
                request_id = str(next(self._ids))
                self.llm_engine.add_request(
                    request_id, prompt, _final_only(p), priority=priority[i] if priority else 0, cache_salt=cache_salt
                )
                ids.append(request_id)
            return self._run(ids, use_tqdm)
        except BaseException:  # a wrong prompt or Ctrl-C: leave nothing behind
            self.llm_engine.abort_request(ids)
            raise

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answers one conversation, or each of many. `messages` are OpenAI-style dicts with role and content."""
        many: Sequence[Any] = [messages] if not messages or isinstance(messages[0], dict) else messages
        tokenizer = self.get_tokenizer()
        prompts: list[Prompt] = []
        for conversation in many:
            text = tokenizer.apply_chat_template(
                conversation,
                tools=tools,
                chat_template=chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **(chat_template_kwargs or {}),
            )
            # The template has written the special tokens already.
            prompts.append({"prompt": text, "prompt_token_ids": tokenizer.encode(text, add_special_tokens=False)})
        return self.generate(prompts, sampling_params, use_tqdm=use_tqdm)

    def _params_for(
        self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None
    ) -> list[SamplingParams]:
        if params is None:
            params = self.get_default_sampling_params()
        if isinstance(params, SamplingParams):
            return [params] * len(prompts)
        if len(params) != len(prompts):
            raise UserError(
                f"{len(params)} SamplingParams were given for {len(prompts)} prompts; give one, or one each"
            )
        return list(params)

    def _run(self, ids: list[str], use_tqdm: bool) -> list[RequestOutput]:
        finished: dict[str, RequestOutput] = {}
        with _progress(len(ids), use_tqdm) as show:
            while self.llm_engine.has_unfinished_requests():
                for output in self.llm_engine.step():
                    if output.finished:
                        finished[output.request_id] = output
                        show(output)
        return [finished[i] for i in ids]

    # -- the rest -------------------------------------------------------------------------------------------

    def get_tokenizer(self) -> Tokenizer:
        """Raises UserError when the engine was started with skip_tokenizer_init."""
        tokenizer = self.llm_engine.tokenizer
        if tokenizer is None:
            raise UserError("There is no tokenizer: the engine was started with skip_tokenizer_init=True.")
        return tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """The model's generation_config.json over our defaults."""
        return default_sampling_params(self.llm_engine.default_sampling_params)

    def reset_prefix_cache(self) -> bool:
        """Forgets all cached prefixes; False while requests still hold blocks."""
        return self.llm_engine.reset_prefix_cache()

    def start_profile(self, num_steps: int | None = None) -> None:
        """Traces the next steps of the worker, 100 if nothing is said; needs the option `profile`."""
        self.llm_engine.start_profile(num_steps)

    def stop_profile(self) -> str:
        """Ends the trace; returns the file it was written to."""
        return self.llm_engine.stop_profile()

    def shutdown(self) -> None:
        """Gives the model's memory back."""
        self.llm_engine.shutdown()


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Any]:
    if isinstance(prompts, (str, dict)):
        return [prompts]
    many = list(prompts)
    return [many] if many and isinstance(many[0], int) else many


def _final_only(params: SamplingParams) -> SamplingParams:
    if params.output_kind is RequestOutputKind.FINAL_ONLY:
        return params
    params = params.clone()
    params.output_kind = RequestOutputKind.FINAL_ONLY
    return params


@contextmanager
def _progress(total: int, wanted: bool) -> Iterator[Callable[[RequestOutput], None]]:
    """A bar on standard error, told of each finished output."""
    if not wanted:
        yield lambda output: None
        return
    from tqdm import tqdm  # takes longer to import than the rest of this module

    num_in = num_out = 0
    with tqdm(total=total, desc="Processed prompts", unit="req") as bar:

        def show(output: RequestOutput) -> None:
            nonlocal num_in, num_out
            num_in += len(output.prompt_token_ids)
            num_out += sum(len(c.token_ids) for c in output.outputs)
            elapsed = bar.format_dict["elapsed"] or 1e-9
            bar.set_postfix_str(f"in {num_in / elapsed:.0f} tok/s, out {num_out / elapsed:.0f} tok/s", False)
            bar.update()

        yield show
