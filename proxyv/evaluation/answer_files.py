"""The files of one benchmark's answers, while they are made and once all are there.

    <output_dir>/<benchmark>.jsonl          answers in sample order: in the end all, before that those of earlier runs
                                            with another batch size or limit
    <output_dir>/<benchmark>.parts/*.jsonl  while a run lasts, the answers that it has: a file for each process, and
                                            `kept.jsonl`, those of the run that it resumes
    <output_dir>/<benchmark>.json           what is measured, then the scores

Only the main process writes, but for each process's part. A batch is written at once, and answers of one that was cut
off are not used: it is made again as a whole, by the same samples.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from proxyv.errors import UserError
from proxyv.evaluation.scoring import read_answers
from proxyv.files import to_line, write_records, writing
from proxyv.locks import LOCK
from proxyv.results.scores import AnswerRecord

Answers = dict[int, AnswerRecord]  # by the sample's index
SHARED_DISK = 30.0  # seconds in which what one machine has written must be seen on the others
_PAUSE = 0.2


def answers_lock(output_dir: str | Path, name: str) -> Path:
    """The lock file of a benchmark's answers, or of a suite."""
    return Path(output_dir) / f".{name}{LOCK}"


@dataclass(frozen=True)
class AnswerFiles:
    """Where the answers of one benchmark are."""

    folder: Path
    name: str

    @property
    def answers(self) -> Path:
        """The file of answers in sample order."""
        return self.folder / f"{self.name}.jsonl"

    @property
    def result(self) -> Path:
        """The file of scores."""
        return self.folder / f"{self.name}.json"

    @property
    def parts(self) -> Path:
        """The folder of what is under way."""
        return self.folder / f"{self.name}.parts"

    @property
    def lock(self) -> Path:
        """The lock of the process that reads and writes for all."""
        return answers_lock(self.folder, self.name)

    def part(self, rank: int) -> Path:
        """A process's own file."""
        return self.parts / f"{rank}.jsonl"

    def read_settled(self) -> Answers:
        """The answers in sample order's file; none where there is no file. Raises UserError as `read_answers` does."""
        return _numbered([self.answers] if self.answers.exists() else [])

    def read_parts(self) -> Answers:
        """The answers of the run under way, or that was interrupted. Raises UserError as `read_answers` does."""
        return _numbered(sorted(self.parts.glob("*.jsonl")))

    def write_settled(self, answers: Answers) -> None:
        """Write the file in sample order."""
        write_records(self.answers, (answers[index] for index in sorted(answers)))

    def begin_parts(self, kept: Answers, processes: int) -> None:
        """Make the folder anew: a file of what is kept, and an empty one for each process."""
        self.parts.mkdir(parents=True, exist_ok=True)
        keeping = self.parts / "kept.jsonl"
        write_records(keeping, (kept[index] for index in sorted(kept)))
        for file in self.parts.glob("*.jsonl"):
            if file != keeping:
                file.unlink()
        for rank in range(processes):
            self.part(rank).touch()

    def remove_parts(self) -> None:
        """Remove the folder, if there is one."""
        shutil.rmtree(self.parts, ignore_errors=True)

    @contextmanager
    def adding(self, rank: int) -> Iterator[IO[str]]:
        """A process's part, to be added to. Raises UserError where the main process's folder is not seen."""
        path = self.part(rank)
        if not _in_time(path.exists):
            raise UserError(f"{path}: process 0 has made it, but process {rank} does not see it; {_SHARE}")
        with writing(path), path.open("a", encoding="utf-8") as file:
            yield file

    def collect(self, settled: Mapping[int, AnswerRecord], wanted: int) -> Answers:
        """All answers, once each process has written its own. Raises UserError where some are missing."""
        found: Answers = {}

        def whole() -> bool:
            found.update({**settled, **self.read_parts()})
            return len(found) >= wanted

        if not _in_time(whole):
            raise UserError(f"{self.parts}: {wanted - len(found)} of {wanted} answers are not seen; {_SHARE}")
        return found


_SHARE = "give an output folder that all machines share"


def add_answers(file: IO[str], records: Iterable[AnswerRecord]) -> None:
    """Write a batch's answers, so that another process sees them even if this one is killed."""
    file.write("".join(map(to_line, records)))
    file.flush()


def _numbered(files: Iterable[Path]) -> Answers:
    """The answers of files by index. Of two to one sample, as a kill between two steps may leave, the first counts."""
    found: Answers = {}
    for file in files:
        for number, record in enumerate(read_answers(file), start=1):
            if "index" not in record:
                raise UserError(f"{file}: line {number}: field 'index' is missing; evaluate without resume")
            found.setdefault(int(record["index"]), record)
    return found


def _in_time(there: Callable[[], bool]) -> bool:
    """Whether something becomes true before a shared disk has had its time."""
    deadline = time.monotonic() + SHARED_DISK
    while not there():
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)
    return True
