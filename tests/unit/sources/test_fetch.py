"""Fetching from a hub on this machine: what arrives, what is compared, what goes on after a kill."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest
from huggingface_hub import constants

from proxyv.cli import main
from proxyv.errors import UserError
from proxyv.files import CHECKOUT
from proxyv.locks import only_process
from proxyv.sources.fetch import fetch
from proxyv.sources.fetched import read_fetched
from proxyv.sources.source import Source, SourceFiles
from tests.hub_stub import COMMIT, Hub, serving

FILES = {"data/test-0.parquet": b"first" * 1000, "data/test-1.parquet": b"second", "data/train-0.parquet": b"no"}


def source(**fields):
    given = {"name": "toy", "title": "Toy", "hub": "some/toy", "folder": "Toy"}
    return Source(**{**given, "files": [SourceFiles("data/test-*.parquet")], **fields})


@pytest.fixture
def hub(monkeypatch):
    with serving(Hub("some/toy", dict(FILES))) as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants._HF_DEFAULT_ENDPOINT, hub.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


def test_files_arrive_with_a_record_and_are_not_fetched_twice(hub, tmp_path):
    fetched = fetch(source(), tmp_path)
    for path in ("data/test-0.parquet", "data/test-1.parquet"):
        assert (tmp_path / "Toy" / path).read_bytes() == FILES[path]
        digest = hashlib.sha256(FILES[path]).hexdigest()
        assert fetched["files"][path] == {"size": len(FILES[path]), "sha256": digest}
    assert (fetched["commit"], fetched["complete"], len(fetched["files"])) == (COMMIT, True, 2)
    assert sorted(path.name for path in (tmp_path / "Toy/data").iterdir()) == ["test-0.parquet", "test-1.parquet"]
    asked = len(hub.asked)
    assert fetch(source(), tmp_path) == fetched == read_fetched(source(), tmp_path)
    assert len(hub.asked) == asked == 2
    (tmp_path / "Toy/data/test-1.parquet").unlink()
    fetch(source(), tmp_path)
    assert [path for path, _ in hub.asked[asked:]] == ["data/test-1.parquet"]


def test_an_unpinned_source_stays_at_the_commit_of_the_first_time(hub, tmp_path):
    fetch(source(), tmp_path)
    (tmp_path / "Toy/data/test-1.parquet").unlink()
    hub.commit = "f" * 40  # the old commit is gone, and nobody asked for the new one
    with pytest.raises(UserError, match=f"toy: some/toy at {COMMIT}: cannot be read .*fix hub or revision in"):
        fetch(source(), tmp_path)
    assert fetch(source(revision="f" * 40), tmp_path)["commit"] == "f" * 40


def test_what_lies_there_already_is_compared_and_not_fetched(hub, tmp_path):
    (tmp_path / "Toy/data").mkdir(parents=True)
    (tmp_path / "Toy/data/test-0.parquet").write_bytes(FILES["data/test-0.parquet"])
    (tmp_path / "Toy/data/test-1.parquet").write_bytes(b"others")  # of the same length
    with pytest.raises(UserError, match="test-1.parquet: arrived with SHA-256 .* instead of .*; fetch it again"):
        fetch(source(), tmp_path)
    assert hub.asked == []
    fetch(source(), tmp_path)
    assert [path for path, _ in hub.asked] == ["data/test-1.parquet"]


def test_other_bytes_than_promised_are_not_put_into_place(hub, tmp_path):
    hub.promised["data/test-0.parquet"] = "0" * 64
    with pytest.raises(UserError, match="test-0.parquet: arrived with SHA-256"):
        fetch(source(), tmp_path)
    assert list((tmp_path / "Toy/data").iterdir()) == []
    hub.promised.clear()
    pinned = source(checksums={"data/test-1.parquet": "1" * 64})
    with pytest.raises(UserError, match=f"test-1.parquet: arrived with SHA-256 .* instead of {'1' * 64}"):
        fetch(pinned, tmp_path)
    assert not read_fetched(pinned, tmp_path)["complete"]


def test_a_killed_download_goes_on_where_it_stopped(tmp_path):
    """With the command itself, at the real source: what the first process has written is not asked for again."""
    content = os.urandom(2**20) * 24
    path = "data/test-00000-of-00001.parquet"
    commit = "9e63b7df1592a1c2158e735cc1725454aef0d6d9"  # as configs/sources/chartqa.yaml pins it
    with serving(Hub("lmms-lab-encoder/ChartQA", {path: content}, commit, stall_after=15 * 2**20)) as hub:
        command = [sys.executable, "-m", "proxyv", "data", "fetch", "chartqa", "--data_root", str(tmp_path)]
        environment = {**os.environ, "HF_ENDPOINT": hub.address, "PYTHONPATH": str(CHECKOUT), "HF_HUB_OFFLINE": "0"}
        first = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            deadline, folder = time.monotonic() + 60, tmp_path / "ChartQA" / "data"
            while not sum(one.stat().st_size for one in folder.glob(".*.partial")):
                assert time.monotonic() < deadline and first.poll() is None
                time.sleep(0.05)
        finally:
            first.send_signal(signal.SIGKILL)
            first.wait()
        (partial,) = folder.glob(".*.partial")
        kept = partial.stat().st_size
        assert 0 < kept <= 15 * 2**20
        subprocess.run(command, env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL)
        assert hub.asked == [(path, ""), (path, f"bytes={kept}-")]
    assert [one.name for one in folder.iterdir()] == ["test-00000-of-00001.parquet"]
    assert (folder / "test-00000-of-00001.parquet").read_bytes() == content


def test_half_a_file_of_another_version_is_not_gone_on_with(hub, tmp_path):
    (tmp_path / "Toy/data").mkdir(parents=True)
    (tmp_path / "Toy/data/.test-0.parquet.aaaaaaaaaaaa.partial").write_bytes(b"x")
    fetch(source(), tmp_path)
    assert (tmp_path / "Toy/data/test-0.parquet").read_bytes() == FILES["data/test-0.parquet"]


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network_one_line_says_what_to_put_where(monkeypatch, capsys, tmp_path, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SystemExit) as stop:
        main(["data", "fetch", "docvqa", "--data_root", str(tmp_path)])
    shown = capsys.readouterr()
    assert stop.value.code == 2 and shown.out == "" and len(shown.err.splitlines()) == 1
    assert "docvqa: http://127.0.0.1:9 does not answer" in shown.err
    assert "`hf download lmms-lab-encoder/DocVQA --repo-type dataset --revision 2d9ad9f" in shown.err
    assert "--include 'DocVQA/validation-*.parquet' --local-dir DocVQA`" in shown.err
    assert f"so that there are {tmp_path}/DocVQA/DocVQA/validation-*.parquet" in shown.err


def test_a_repository_writes_nothing_outside_of_its_folder(hub, tmp_path):
    hub.files["data/test-/../../../evil.parquet"] = b"evil"
    assert len(fetch(source(), tmp_path)["files"]) == 2 and not list(tmp_path.rglob("evil*"))


def test_a_pattern_without_files_is_refused_with_what_there_is(hub, tmp_path):
    with pytest.raises(UserError, match=r"pattern 'val-\*' matches no file of some/toy; it holds data/test-0"):
        fetch(source(files=[SourceFiles("val-*")]), tmp_path)


def test_a_disk_that_is_too_small_is_refused_before_anything_comes(hub, monkeypatch, tmp_path):
    monkeypatch.setattr("proxyv.sources.fetch.shutil.disk_usage", lambda folder: type("Usage", (), {"free": 5000})())
    with pytest.raises(UserError, match="GB to come and 0.0 GB free; take another data root"):
        fetch(source(), tmp_path)
    assert hub.asked == []


def test_two_do_not_fetch_the_same_at_once(hub, tmp_path):
    with only_process(tmp_path / "fetched" / ".toy.lock"), pytest.raises(UserError, match="at work there"):
        fetch(source(), tmp_path)


def packed(kind, names):
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in names:
                archive.writestr(name, b"pixels")
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name in names:
                archive.addfile(info := tarfile.TarInfo(name), io.BytesIO(b""))
                assert info.size == 0
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_are_unpacked_once_and_never_outside_of_their_folder(hub, tmp_path, kind):
    name = f"images.{kind}"
    toy = source(files=[SourceFiles(name)], unpack={name: "pictures"})
    hub.files = {name: packed(kind, ["a/1.png", "a/2.png"])}
    assert fetch(toy, tmp_path)["unpacked"] == [name]
    assert sorted(path.name for path in (tmp_path / "Toy/pictures/a").iterdir()) == ["1.png", "2.png"]
    (tmp_path / "Toy/pictures/a/1.png").unlink()
    fetch(toy, tmp_path)
    assert not (tmp_path / "Toy/pictures/a/1.png").exists()  # it is the user's now
    hub.files, evil = {name: packed(kind, ["../../evil.png"])}, tmp_path / "other"
    if kind == "zip":
        fetch(toy, evil)  # left out
    else:
        with pytest.raises(UserError, match="images.tar.gz: cannot be read .*outside.*; delete it and fetch it again"):
            fetch(toy, evil)
    assert not list(tmp_path.rglob("evil.png"))
