"""Downloading a source from the hub: checksums compared, resumed where it stopped, unpacked.

huggingface_hub's own `snapshot_download` keeps whole files only: from its version 2.4 on, what a killed process had of
a file is thrown away, 43 GB of it here. So its `http_get` is called with the bytes that are there.
"""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from proxyv.errors import UserError, reading
from proxyv.files import writing
from proxyv.hub import hub_answers
from proxyv.locks import LOCK, only_process
from proxyv.sources.fetched import Fetched, read_fetched, record_file, sha256, write_fetched
from proxyv.sources.source import Source

GO_ON = "start it again: what has arrived is kept"


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository. sha256: None for small files that git itself holds."""

    path: str
    size: int
    sha256: str | None
    version: str  # changes with the content


def fetch(source: Source, data_root: str | Path) -> Fetched:
    """Bring a source's files into its folder below `data_root`; returns the record of what is there.

    What is there already is left alone; a file that stopped half-way goes on where it stopped. Without a pinned
    revision, the commit of the first time stays: delete the record to take a newer one.

    Raises UserError where the hub does not answer (saying what to put where instead), has no such revision or files, or
    gives other bytes than it or the source's file promises; where the disk is too small; and while another process
    fetches the same.
    """
    with only_process(record_file(source, data_root).with_name(f".{source.name}{LOCK}")):
        fetched = read_fetched(source, data_root)
        if fetched is not None and is_whole(source, data_root, fetched):
            return fetched
        if constants.HF_HUB_OFFLINE or not hub_answers(constants.ENDPOINT):
            raise UserError(_without_network(source, data_root))
        commit, files = _remote_files(source, source.revision or (fetched and fetched["commit"]))
        if fetched is None or fetched["commit"] != commit:
            fetched = _new_record(source, commit)
        _check_space(source, data_root, files)
        for file in files:
            _fetch_file(source, data_root, commit, file, fetched)
        for archive, folder in source.unpack.items():
            _unpack(source, data_root, archive, folder, fetched)
        fetched["complete"] = True
        write_fetched(source, data_root, fetched)
        return fetched


def is_whole(source: Source, data_root: str | Path, fetched: Fetched) -> bool:
    """Whether all that a record names is there, at the size it says, and of the pinned revision."""
    folder = Path(data_root) / source.folder
    sizes = ((folder / path, file["size"]) for path, file in fetched["files"].items())
    there = all(path.is_file() and path.stat().st_size == size for path, size in sizes)
    return fetched["complete"] and source.revision in (None, fetched["commit"]) and there


def _new_record(source: Source, commit: str) -> Fetched:
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {
        "source": source.name,
        "hub": source.hub,
        "commit": commit,
        "created": created,
        "complete": False,
        "files": {},
        "unpacked": [],
    }


def _without_network(source: Source, data_root: str | Path) -> str:
    folder = Path(data_root) / source.folder
    include = " ".join(f"--include '{pattern}'" for pattern in source.patterns)
    revision = f" --revision {source.revision}" if source.revision else ""
    places = ", ".join(str(folder / pattern) for pattern in source.patterns)
    return (
        f"{source.name}: {constants.ENDPOINT} does not answer; where there is a network, run "
        f"`hf download {source.hub} --repo-type dataset{revision} {include} --local-dir {source.folder}`, and copy "
        f"that folder to {folder}, so that there are {places}"
    )


def _remote_files(source: Source, revision: str | None) -> tuple[str, list[RemoteFile]]:
    """The commit that a revision means (None: the newest), and the source's files in it, in the order of its patterns.

    Raises UserError where the hub has no such repository, revision or files.
    """
    place = f"{source.hub}" + (f" at {revision}" if revision else "")
    remedy = f"fix hub or revision in configs/sources/{source.name}.yaml, log in with `hf auth login`, or try later"
    with reading(f"{source.name}: {place}", remedy):
        info = HfApi().dataset_info(source.hub, revision=revision, files_metadata=True)
    if info.sha is None:
        raise UserError(f"{source.name}: {place}: the hub names no commit; try later")
    files = [
        RemoteFile(
            path=one.rfilename,
            size=one.size or 0,
            sha256=one.lfs.sha256 if one.lfs else None,
            version=one.lfs.sha256 if one.lfs else str(one.blob_id),
        )
        for one in info.siblings or []
    ]
    found = []
    for pattern in source.patterns:
        matching = [file for file in files if fnmatch.fnmatch(file.path, pattern) and ".." not in Path(file.path).parts]
        if not matching:
            raise UserError(
                f"configs/sources/{source.name}.yaml: pattern '{pattern}' matches no file of {place}; "
                f"it holds {_some([file.path for file in files])}"
            )
        found += matching
    return info.sha, found


def _some(paths: Sequence[str]) -> str:
    return ", ".join(sorted(paths)[:20]) + (", …" if len(paths) > 20 else "") if paths else "nothing"


def _check_space(source: Source, data_root: str | Path, files: Sequence[RemoteFile]) -> None:
    """Raise UserError where what is still to come does not fit on the disk."""
    folder = Path(data_root) / source.folder
    folder.mkdir(parents=True, exist_ok=True)
    there = (_size(folder / file.path) or _size(_partial(folder, file)) for file in files)
    needed = sum(file.size for file in files) - sum(there)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{folder}: {needed / 1e9:.1f} GB to come and {free / 1e9:.1f} GB free; take another data root")


def _fetch_file(source: Source, data_root: str | Path, commit: str, file: RemoteFile, fetched: Fetched) -> None:
    """One file, whole and compared, into its place and into the record."""
    folder = Path(data_root) / source.folder
    target, partial = folder / file.path, _partial(folder, file)
    known = fetched["files"].get(file.path)
    if known and known["size"] == _size(target):
        return
    if _size(target) != file.size:
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(source, commit, file, partial)
    else:  # put there by hand, or by a fetch that was killed behind it
        target.replace(partial)
    found = sha256(partial)
    promised = (source.checksums or {}).get(file.path) or file.sha256
    if promised is not None and found != promised:
        partial.unlink()
        raise UserError(f"{target}: arrived with SHA-256 {found} instead of {promised}; fetch it again")
    partial.replace(target)
    fetched["files"][file.path] = {"size": file.size, "sha256": found}
    write_fetched(source, data_root, fetched)


def _download(source: Source, commit: str, file: RemoteFile, partial: Path) -> None:
    url = hf_hub_url(source.hub, file.path, repo_type="dataset", revision=commit)
    done = _size(partial)
    if done > file.size:
        partial.unlink()
        done = 0
    with reading(f"{source.name}: {url}", GO_ON), writing(partial), partial.open("ab") as opened:
        http_get(
            url,
            opened,
            resume_size=done,
            headers=build_hf_headers(),
            expected_size=file.size,
            displayed_filename=file.path,
        )


def _partial(folder: Path, file: RemoteFile) -> Path:
    """Where a file grows: its name says which version of it, so that bytes of two are never mixed."""
    target = folder / file.path
    return target.with_name(f".{target.name}.{file.version[:12]}.partial")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _unpack(source: Source, data_root: str | Path, archive: str, folder: str, fetched: Fetched) -> None:
    """Unpack an archive once; what a killed process unpacked is written over. Raises UserError for a damaged one."""
    if archive in fetched["unpacked"]:
        return
    place = Path(data_root) / source.folder
    target = place / folder
    # Nothing is written outside of the folder: of a tar by the filter, a zip's unpacker sees to it by itself.
    with reading(place / archive, "delete it and fetch it again"), writing(target):
        if archive.endswith(".zip"):
            shutil.unpack_archive(place / archive, target)
        else:
            shutil.unpack_archive(place / archive, target, filter="data")
    fetched["unpacked"].append(archive)
    write_fetched(source, data_root, fetched)
