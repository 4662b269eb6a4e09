"""An interrupted run goes on as if nothing had happened, from a whole checkpoint, or says in one line why not."""

import json
import os
import resource
import shutil
import signal
import subprocess
from dataclasses import replace

import psutil
import pytest

from proxyv.checkpoints.checkpoint_folder import COMPLETE, checkpoints
from proxyv.checkpoints.run_folder import run_folder
from proxyv.errors import UserError
from proxyv.files import read_json, write_json
from proxyv.locks import LOCK, only_process
from proxyv.signals import REQUEUE, Stopped
from proxyv.train import train
from proxyv.train import trainer as trainer_module
from proxyv.train.stage import find_checkpoint
from tests.small_runs import PowerCut, figures, interrupt, page_recipe, read_log, stage


def interrupted(recipe, monkeypatch, step, happens=None, raised=PowerCut):
    """Start the recipe's run and end it behind a step; returns its folder and what ended it."""
    restore = interrupt(monkeypatch, step, happens)
    with pytest.raises(raised) as ended:
        train(recipe)
    restore()
    return run_folder(recipe), ended.value


def model_bytes(run, name="mixed"):
    return (run / name / "model.safetensors").read_bytes()


def totals(run, name="mixed"):
    """What finished.json says, without what takes its time."""
    record = json.loads((run / name / "finished.json").read_text())
    return {key: record[key] for key in ("steps", "loss", "tokens", "samples", "parameters")}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A recipe with odd windows, some samples too long, and its unbroken run."""
    folder = tmp_path_factory.mktemp("made")
    # 9 steps, a line every 4, a checkpoint every 3: no checkpoint but the last lies at the end of a line.
    spec = stage(["captions", "text"], steps=9, save_steps=3, logging_steps=4, schedule="cosine", max_length=120)
    recipe = page_recipe(folder, mixed=replace(spec, micro_batch_size=2))
    return recipe, train(recipe)


def fresh(made, tmp_path, monkeypatch, step=8, **options):
    """The recipe under `tmp_path`, cut behind a step."""
    recipe = replace(made[0], output_dir=str(tmp_path / "runs"))
    run, _ = interrupted(recipe, monkeypatch, step, **options)
    return recipe, run


def test_a_resume_inside_a_line_of_the_log_leaves_no_trace(made, tmp_path, monkeypatch):
    recipe, run = fresh(made, tmp_path, monkeypatch, 5)
    assert [entry["step"] for entry in read_log(run, "mixed")] == [4]
    with (run / "mixed" / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # torn by the cut
    train(recipe, resume=True)
    expected, found = figures(made[1], "mixed"), figures(run, "mixed")
    assert [entry["step"] for entry in found] == [4, 8, 9] and found == expected
    assert expected[-1]["too_long_skipped"] > expected[0]["too_long_skipped"] > 0
    assert totals(run) == totals(made[1]) and model_bytes(run) == model_bytes(made[1])


def test_the_record_covers_all_legs(made, tmp_path, monkeypatch):
    recipe, run = fresh(made, tmp_path, monkeypatch, 8)
    seconds = read_json(run / "mixed" / "checkpoint-6" / "progress.json")["seconds"]
    train(recipe, resume=True)
    record = read_json(run / "mixed" / "finished.json")
    assert record["legs"] == 2 and record["seconds"] > seconds > 0
    assert record["samples"]["trained"] == 36 and record["tokens"]["tokens"] > record["tokens"]["supervised_tokens"] > 0
    assert read_log(run, "mixed")[-1]["elapsed_seconds"] > seconds


# Every file that a resume needs. What a run folder must not lose is found by looking, not listed from memory.
def files_of(checkpoint):
    return sorted(str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file())


def test_every_damage_falls_back_to_the_last_intact_checkpoint(made, tmp_path, monkeypatch, capsys):
    recipe, run = fresh(made, tmp_path, monkeypatch, 8)
    folder = run / "mixed"
    newest, names = folder / "checkpoint-6", files_of(folder / "checkpoint-6")
    needed = {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
    assert needed | {COMPLETE, "progress.json"} <= set(names)
    shutil.copytree(folder, tmp_path / "kept")
    origin = read_json(newest / COMPLETE)["origin"]
    capsys.readouterr()
    for name in names:
        whole = (newest / name).read_bytes()
        for kind, content in {
            "missing": None,
            "empty": b"",
            "truncated": whole[: len(whole) // 2],
            "garbage": bytes(len(whole)),
        }.items():
            if content is None:
                (newest / name).unlink()
            else:
                (newest / name).write_bytes(content)
            assert find_checkpoint(folder, origin) == folder / "checkpoint-3", (name, kind)
            warned = capsys.readouterr().err
            assert warned.count("\n") == 1 and name in warned and "going on from checkpoint-3" in warned, (name, kind)
            assert not newest.exists() and (folder / "checkpoint-6.damaged").is_dir()
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / "kept", folder)
    (newest / "optimizer.pt").unlink()
    train(recipe, resume=True)
    assert figures(run, "mixed") == figures(made[1], "mixed") and model_bytes(run) == model_bytes(made[1])
    assert totals(run) == totals(made[1])


def test_without_an_intact_checkpoint_nothing_begins(made, tmp_path, monkeypatch):
    recipe, run = fresh(made, tmp_path, monkeypatch, 8)
    for step, name in ((3, "scheduler.pt"), (6, "rng_state.pth")):
        (run / "mixed" / f"checkpoint-{step}" / name).write_bytes(b"?")
    before = sorted((run / "mixed").rglob("checkpoint-*/**/*"))
    with pytest.raises(
        UserError, match="no checkpoint is intact .checkpoint-6: rng_state.*checkpoint-3: scheduler"
    ) as e:
        train(recipe, resume=True)
    assert "\n" not in str(e.value) and sorted((run / "mixed").rglob("checkpoint-*/**/*")) == before


def test_half_written_checkpoints_are_removed_and_never_taken(made, tmp_path, monkeypatch):
    recipe = replace(made[0], output_dir=str(tmp_path / "runs"))

    def cut(*args):
        raise PowerCut

    with monkeypatch.context() as patch:  # between the last file and the mark of checkpoint-6
        place = trainer_module.put_checkpoint
        place_or_cut = lambda partial, *of: cut() if partial.name == "checkpoint-6" else place(partial, *of)  # noqa: E731
        patch.setattr(trainer_module, "put_checkpoint", place_or_cut)
        with pytest.raises(PowerCut):
            train(recipe)
    run = run_folder(recipe)
    half = run / "mixed" / "partial" / "checkpoint-6"
    assert (half / "trainer_state.json").is_file() and not (half / COMPLETE).exists()
    assert [path.name for path in checkpoints(run / "mixed")] == ["checkpoint-3"]
    train(recipe, resume=True)
    assert not half.parent.exists() and figures(run, "mixed") == figures(made[1], "mixed")


def test_as_many_checkpoints_are_kept_as_the_stage_says(made, tmp_path):
    assert [path.name for path in checkpoints(made[1] / "mixed")] == ["checkpoint-6", "checkpoint-9"]
    spec = replace(made[0].stages["mixed"], keep_checkpoints=1)
    run = train(replace(made[0], output_dir=str(tmp_path), stages={"mixed": spec}))
    assert [path.name for path in checkpoints(run / "mixed")] == ["checkpoint-9"]


def test_no_checkpoint_is_made_of_a_loss_that_is_not_finite(tmp_path):
    recipe = page_recipe(tmp_path, hot=stage(["captions"], learning_rate=1e30, save_steps=3, logging_steps=100))
    with pytest.raises(UserError, match="checkpoint-3: the loss before it is not finite; lower the learning rate"):
        train(recipe)
    assert checkpoints(run_folder(recipe) / "hot") == []


def test_a_run_under_way_is_not_disturbed(tmp_path):
    recipe = page_recipe(tmp_path)
    with only_process(run_folder(recipe) / LOCK), pytest.raises(UserError, match="is at work there"):
        train(recipe)
    assert not (run_folder(recipe) / "recipe.yaml").exists()


def test_other_conditions_are_refused_in_one_line(made, tmp_path, monkeypatch):
    recipe, run = fresh(made, tmp_path, monkeypatch, 5)
    mark = run / "mixed" / "checkpoint-3" / COMPLETE
    write_json(mark, {**read_json(mark), "origin": {"processes": 2, "deepspeed": None}})
    with pytest.raises(UserError, match="checkpoint-3: processes was 2 and is 1; go on as the run was begun"):
        train(recipe, resume=True)
    with pytest.raises(UserError, match="another recipe.*seed was 0 and is 3"):
        train(replace(recipe, seed=3), resume=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_behind_the_step_and_asks_to_be_started_again(made, tmp_path, monkeypatch, number):
    recipe = replace(made[0], output_dir=str(tmp_path / "runs"))
    before = signal.getsignal(number)
    run, stopped = interrupted(recipe, monkeypatch, 4, lambda: os.kill(os.getpid(), number), Stopped)
    assert stopped.code == REQUEUE == 75 and f"{number.name} came; stopped behind step 5" in str(stopped)
    assert signal.getsignal(number) == before
    assert [path.name for path in checkpoints(run / "mixed")] == ["checkpoint-3", "checkpoint-5"]
    train(recipe, resume=True)
    assert figures(run, "mixed") == figures(made[1], "mixed") and model_bytes(run) == model_bytes(made[1])
    assert totals(run) == totals(made[1])


def test_a_signal_to_all_processes_of_a_job_leaves_data_workers_at_work(tmp_path, monkeypatch):
    recipe = page_recipe(tmp_path, mixed=stage(["text"], dataloader_workers=1))
    before = psutil.Process().children()  # other tests' server (tests/warm.py) is none of the job's

    def scancel():  # from outside: what a parent sends is taken for the loader's own tidying up
        workers = [child for child in psutil.Process().children() if child not in before]
        subprocess.run(["kill", *(str(process.pid) for process in (*workers, psutil.Process()))], check=True)
        psutil.wait_procs(workers, timeout=1)

    run, stopped = interrupted(recipe, monkeypatch, 1, scancel, Stopped)
    assert "SIGTERM came; stopped behind step 2" in str(stopped)
    assert [path.name for path in checkpoints(run / "mixed")] == ["checkpoint-2"]


def test_a_signal_in_the_last_step_lets_the_stage_finish(tmp_path, monkeypatch):
    recipe = page_recipe(tmp_path, a=stage(["text"], steps=2), b=stage(["text"], steps=2))
    run, stopped = interrupted(recipe, monkeypatch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM), Stopped)
    assert (run / "a" / "finished.json").exists() and "SIGTERM came; stopped before stage b" in str(stopped)
    train(recipe, resume=True)
    assert (run / "b" / "finished.json").exists()


def test_a_stage_without_checkpoints_stops_and_says_that_it_begins_anew(tmp_path, monkeypatch):
    tower = stage(["glyphs"], train=["tower"], objective="patch_classification", steps=3)
    recipe = page_recipe(tmp_path, tower=tower)
    recipe.vision.config["image_size"] = 112
    expected = figures(train(recipe), "tower")
    cut = replace(recipe, name="cut")
    run, stopped = interrupted(cut, monkeypatch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM), Stopped)
    assert "the stage will begin anew" in str(stopped) and checkpoints(run / "tower") == []
    train(cut, resume=True)
    assert figures(run, "tower") == expected


def limit_files(size):
    """As a full disk: no file of this process may grow beyond `size` bytes."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


@pytest.mark.parametrize("size", [100_000, 600_000])  # the model's file is the first that is too long; the optimiser's
def test_a_full_disk_ends_in_one_line_and_loses_nothing(made, tmp_path, monkeypatch, size):
    recipe = replace(made[0], output_dir=str(tmp_path / "runs"))
    try:
        run, error = interrupted(recipe, monkeypatch, 5, lambda: limit_files(size), UserError)
    finally:
        limit_files(resource.RLIM_INFINITY)
    folder = run / "mixed"
    assert f"{folder / 'checkpoint-6'}: the disk takes no more" in str(error) and "\n" not in str(error)
    assert [path.name for path in checkpoints(folder)] == ["checkpoint-3"]
    assert not (folder / "partial" / "checkpoint-6").exists()  # which only takes space
    train(recipe, resume=True)
    assert figures(run, "mixed") == figures(made[1], "mixed") and model_bytes(run) == model_bytes(made[1])


def test_a_log_on_a_full_disk_ends_in_one_line(tmp_path, monkeypatch):
    recipe = page_recipe(tmp_path)
    log = tmp_path / "runs" / "tiny" / "mixed" / "log.jsonl"
    _, error = interrupted(recipe, monkeypatch, 0, lambda: log.symlink_to("/dev/full"), UserError)
    assert f"{log}: the disk takes no more ([Errno 28] No space left on device)" in str(error)
