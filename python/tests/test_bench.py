"""Goal: bench/python.mjs measures what it says, and says what is wrong with its options.
Method: one round, as JSON; what came of it is whole, and no figure is judged, since tests share the machine.
"""

import json
import subprocess

from conftest import LONG, ROOT


def bench(*options):
    command = ["node", str(ROOT / "bench" / "python.mjs"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=LONG * 4)


def test_a_run():
    ended = bench("--rounds", "1", "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    document = json.loads(ended.stdout)
    assert (document["bytes"], document["rounds"], document["goal"]) == (32 * 61 * 72 * 1024, 1, 0.95)
    assert [row["name"] for row in document["rows"]] == ["set", "get"]
    for row in document["rows"]:
        assert row["python"] > 0 and row["typescript"] > 0
        # Of one round, the median ratio is that of the medians.
        assert abs(row["ratio"] - row["python"] / row["typescript"]) < 1e-9


def test_options():
    assert "--rounds N" in bench("--help").stdout
    for options, says in (
        (["--rounds", "0"], "--rounds 0: give a whole number from 1 to 10000"),
        (["--rounds", "few"], "--rounds few"),
        (["--nothing"], "'--nothing'"),
    ):
        ended = bench(*options)
        assert ended.returncode == 2 and says in ended.stderr and "--help" in ended.stderr
