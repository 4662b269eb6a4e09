"""Where data comes from: what there is, fetching it, checking what was fetched.

source.py   what a file of configs/sources holds: hub name, revision, licence, sizes, columns, target folder
fetch.py    download a source from the hub, resumed where it stopped, and unpack it
fetched.py  the record of what was fetched: commit, sizes, checksums
check.py    files, checksums, counts and columns of what lies on disk; no network
names.py    what `proxyv data` takes as a name: sources, benchmarks, suites
"""
