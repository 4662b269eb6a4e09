"""Say at the end how many of the recorded cases were run."""

from tests.parity.recordings import find_cases, golden_folder


def pytest_terminal_summary(terminalreporter):
    """One line: cases found in the folder, and cases whose logits were compared."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]
    ran = {r.nodeid for r in reports if "test_golden.py::test_logits[" in r.nodeid}
    if ran:
        folder = golden_folder()
        terminalreporter.write_line(f"golden cases: {len(find_cases(folder))} found in {folder}, {len(ran)} run")
