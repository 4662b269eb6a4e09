"""`proxyv_launch` in scripts/environment.sh: a signal reaches the launcher, and the code says what to do next."""

import os
import signal
import subprocess
import sys

import pytest

# As torchrun: ends with 1 after SIGTERM, whatever its processes do.
LAUNCHER = """#!{python}
import signal, sys, time
assert sys.argv[1:3] == ["-m", "torch.distributed.run"]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
print("ready", flush=True)
time.sleep(float(sys.argv[3]))
sys.exit(int(sys.argv[4]))
"""


@pytest.mark.parametrize(
    ("seconds", "own", "number", "code"),
    [(60, 0, signal.SIGTERM, 75), (60, 0, signal.SIGUSR1, 75), (0, 0, None, 0), (0, 2, None, 2)],
)
def test_the_code_after_a_signal_asks_to_be_started_again(repo, tmp_path, seconds, own, number, code):
    python = tmp_path / "python"
    python.write_text(LAUNCHER.format(python=sys.executable))
    python.chmod(0o755)
    script = f"set -euo pipefail; source {repo}/scripts/environment.sh; proxyv_launch {seconds} {own}"
    environment = {**os.environ, "PROXYV_PYTHON": str(python)}
    with subprocess.Popen(["bash", "-c", script], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        if number is not None:
            process.send_signal(number)
        assert process.wait(30) == code
