"""One benchmark's questions put to one model: prompts, batches of answers, and their records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import set_seed

from proxyv.errors import naming
from proxyv.evaluation.answers import Answer, chat_prompt, generate_answers
from proxyv.evaluation.batches import prompt_length
from proxyv.evaluation.samples import BenchmarkSample, BenchmarkSamples
from proxyv.evaluation.scoring import with_scores
from proxyv.results.scores import AnswerRecord


@dataclass(frozen=True)
class Answerer:
    """A model, its processor, and the samples that it is asked.

    seed: set before each batch, so that answers depend on no other batch.
    """

    model: Any
    processor: Any
    samples: BenchmarkSamples
    seed: int

    def prompt(self, sample: BenchmarkSample) -> str:
        """The text that is sent for a sample, chat template included."""
        return chat_prompt(self.processor, sample.text, self.samples.count_images(sample))

    def length(self, index: int) -> int:
        """The length of a sample's prompt with its images, as `prompt_length` measures it."""
        sample = self.samples[index]
        return prompt_length(self.processor, self.prompt(sample), self.samples.image_sizes(sample))

    def facts(self, index: int) -> dict[str, Any]:
        """What a sample's record must agree in to be an answer to it."""
        sample = self.samples[index]
        return {"id": sample.id, "prompt": self.prompt(sample), "references": sample.references}

    def ask(self, batch: Sequence[int]) -> list[AnswerRecord]:
        """The answers to samples, generated together, with their scores. Raises torch.OutOfMemoryError where they are
        too many, and UserError as `generate_answers` does."""
        benchmark = self.samples.benchmark
        asked = [self.samples[index] for index in batch]
        prompts = [self.prompt(sample) for sample in asked]
        images = [self.samples.images(sample) for sample in asked]
        ids = ", ".join(repr(sample.id) for sample in asked)
        set_seed(self.seed)
        with naming(f"benchmark {benchmark.name}: samples {ids}"):
            answers = generate_answers(self.model, self.processor, prompts, images, benchmark.max_new_tokens)
        return [
            self._record(sample, prompt, first.size, answer)
            for sample, prompt, (first, *_), answer in zip(asked, prompts, images, answers, strict=True)
        ]

    def _record(
        self, sample: BenchmarkSample, prompt: str, image_size: tuple[int, int], answer: Answer
    ) -> AnswerRecord:
        record: AnswerRecord = {
            "index": sample.index,
            "id": sample.id,
            "prompt": prompt,
            "prediction": answer.text,
            "references": sample.references,
            "scores": {},
            "new_tokens": answer.new_tokens,
            "finished": answer.finished,
            "row": sample.kept | {"image_size": list(image_size)},
        }
        return with_scores(record, self.samples.benchmark)
