"""Goal: the examples of docs/PYTHON.md run as they are.
Method: each Python block after an example comment runs in a process of its own, with the places of two workers.
"""

import re

import pytest
from conftest import ROOT, run_script

TEXT = (ROOT / "docs" / "PYTHON.md").read_text()
EXAMPLES = dict(re.findall(r"<!-- example: ([\w-]+) -->\n```python\n(.*?)```", TEXT, flags=re.S))


def test_the_examples_are_found():
    assert set(EXAMPLES) == {"first", "results", "device-to-device", "asyncio", "datasystem"}
    assert TEXT.count("```python") == len(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(workers, name):
    (host, port), (other_host, other_port) = workers.place(0), workers.place(1)
    places = f"host, port, other_host, other_port = {host!r}, {port}, {other_host!r}, {other_port}\n"
    ended = run_script("-c", places + EXAMPLES[name])
    assert (ended.stderr, ended.returncode) == ("", 0)


def test_every_call_of_the_client_is_in_the_docs():
    import hbmesh

    calls = [
        name for name in vars(hbmesh.Client) if not name.startswith("_") and callable(getattr(hbmesh.Client, name))
    ]
    missing = [name for name in calls if name not in TEXT and not name.endswith("_multi_buffers_async")]
    assert missing == []
    assert [name for name in hbmesh.__all__ if name.endswith("Error") and name not in TEXT] == []
