"""Our model as lmms-eval calls it: requests in, greedy answers out, in batches of like length."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from PIL import Image
from tqdm import tqdm
from transformers import set_seed

from proxyv.errors import UserError, naming, reading
from proxyv.evaluation.answers import Answer, chat_prompt, eval_mode, generate_answers
from proxyv.evaluation.batches import (
    AUTO,
    BatchSize,
    answer_in_parts,
    answer_whole,
    check_numbers,
    find_batch_size,
    first_guess,
    plan_batches,
    prompt_length,
)
from proxyv.evaluation.lmms_eval.generation import Generation, read_generation
from proxyv.model import ProxyVProcessor


@dataclass(frozen=True)
class Sent:
    """What was sent for a sample, chat template included, and the answer before it was cut at stop texts."""

    prompt: str
    answer: Answer


@dataclass(frozen=True)
class _Question:
    """One request. Its images are opened when they are used, and not kept."""

    task: str
    sample: int
    text: str
    generation: Generation
    visuals: Any  # what lmms-eval calls to get them
    row: Any  # what it calls that with

    def images(self) -> list[Image.Image]:
        """The images in their order. Raises UserError for broken ones and for other media."""
        where = f"task {self.task}: sample {self.sample}"
        with reading(where, "replace its image"):
            found = list((self.visuals(self.row()) if self.visuals else None) or [])
        for one in found:
            if not isinstance(one, Image.Image):
                raise UserError(f"{where}: has a {type(one).__name__}; only images are supported")
        return found


class LmmsEvalModel(lmms):
    """A live model and its processor, for lmms-eval: `simple_evaluate(model=LmmsEvalModel(model, processor), …)`.

    The prompt is that of our own evaluation: a task's images in their order, then its text, in the model's chat
    template; what looks like a control token in the text stays text. Images go through the model's own preprocessing.
    Started by torchrun or accelerate, each process answers the share that lmms-eval gives it.

    Args:
        batch_size: samples generated at once, of like length; "auto": as many as fit.
        seed: set before each batch, for methods that draw.
        progress: whether to show a bar.

    Raises UserError for a batch size that is neither a number from 1 nor "auto".
    """

    is_simple = True

    def __init__(
        self,
        model: Any,
        processor: ProxyVProcessor,
        batch_size: BatchSize | str = 1,
        seed: int = 0,
        progress: bool = True,
    ):
        super().__init__()
        # lmms-eval's command line hands over a text.
        size: Any = int(batch_size) if str(batch_size).isdecimal() else batch_size
        check_numbers(size, seed=seed)
        self.batch_size: BatchSize = size
        self.model, self.processor, self.seed, self.progress = model, processor, seed, progress
        self.sent: dict[tuple[str, int], Sent] = {}  # by task and sample, for who wants to keep them
        self.taken_size: int | None = None  # the batch size that `auto` has found, or the given one
        self.answered = False  # whether all requests have been

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self.model.device)

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers in the order of the requests.

        Raises UserError for a task that asks for what would not be honoured (see `read_generation`), and for a sample
        with other media than images.
        """
        questions = [self._question(request) for request in requests]
        results: list[Any] = [None] * len(questions)
        bar = tqdm(total=len(questions), desc="answers", disable=not self.progress or self.rank != 0)
        with bar, eval_mode(self.model):
            for generation in sorted({question.generation for question in questions}):
                alike = [place for place, question in enumerate(questions) if question.generation == generation]
                for place, answer in self._answer_all(questions, alike):
                    text = generation.cut(answer.text)
                    results[place] = GenerationResult(text, TokenCounts(output_tokens=answer.new_tokens))
                    bar.update(1)
        self.answered = True
        return results

    def _question(self, request: Instance) -> _Question:
        text, asked, visuals, sample, task, split = request.args
        if task in self.task_dict:
            rows = self.task_dict[task][split]
        else:  # lmms-eval forgets the name of a task whose fields are overridden in Python; its method knows the rows
            rows = visuals.__self__.dataset[split]
        return _Question(str(task), sample, text, read_generation(task, asked), visuals, lambda: rows[sample])

    def _answer_all(self, questions: Sequence[_Question], places: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        """The answers to questions of one kind of generation, each with its question's place."""

        def ask(batch: Sequence[int]) -> list[Answer]:
            return self._answer([questions[place] for place in batch])

        # Alone, no question waits for a longer one, and its images need be opened only once.
        lengths = {place: 0 if self.batch_size == 1 else self._length(questions[place]) for place in places}
        found: list[Answer] = []
        if self.batch_size == AUTO:
            self.taken_size, found = find_batch_size(ask, lengths, first_guess(self.model, len(places), processes=1))
        else:
            self.taken_size = self.batch_size
        for batch in plan_batches(lengths, self.taken_size):
            if not found:
                found = answer_in_parts(ask, batch)[0] if self.batch_size == AUTO else answer_whole(ask, batch)
            yield from zip(batch, found, strict=True)
            found = []

    def _length(self, question: _Question) -> int:
        images = question.images()
        prompt = chat_prompt(self.processor, question.text, len(images))
        return prompt_length(self.processor, prompt, [image.size for image in images])

    def _answer(self, batch: Sequence[_Question]) -> list[Answer]:
        with naming(f"task {batch[0].task}: samples {', '.join(str(one.sample) for one in batch)}"):
            images = [one.images() for one in batch]
            prompts = [
                chat_prompt(self.processor, one.text, len(of_one)) for one, of_one in zip(batch, images, strict=True)
            ]
            set_seed(self.seed)
            tokens = batch[0].generation.max_new_tokens
            answers = generate_answers(self.model, self.processor, prompts, images, tokens)
        for question, prompt, answer in zip(batch, prompts, answers, strict=True):
            self.sent[question.task, question.sample] = Sent(prompt, answer)
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not supported: raises UserError."""
        raise UserError(f"task {requests[0].task_name}: compares likelihoods; choose a task that generates answers")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not supported: raises UserError."""
        raise UserError(f"task {requests[0].task_name}: talks in rounds; choose a task that asks once")

    def clean(self) -> None:
        """Free what is cached. The model stays, which lmms-eval would delete after each evaluation: it is the caller's,
        and the next task needs it."""
        gc.collect()
        torch.cuda.empty_cache()
