"""Goal: the examples of docs/PYTHON.md run as they are, and the configurations of docs/INTEGRATIONS.md are understood.
Method: each Python block after an example comment runs in a process of its own, with the places of two workers;
configurations are read, and what they name is looked for.
"""

import json
import re
from importlib import import_module

import pytest
from conftest import ROOT, run_script

from hbmesh import config

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

    calls = [name for name in dir(hbmesh.Client) if not name.startswith("_") and callable(getattr(hbmesh.Client, name))]
    missing = [name for name in calls if name not in TEXT and not name.endswith("_multi_buffers_async")]
    assert missing == []
    assert [name for name in hbmesh.__all__ if name.endswith("Error") and name not in TEXT] == []


def test_every_function_of_the_simulated_acl_is_in_the_docs():
    from hbmesh.sim.acl import make_module

    module = make_module(1)
    names = [name for part in (module, module.rt, module.util) for name in vars(part) if not name.startswith("_")]
    assert [name for name in names if f"{name}`" not in TEXT and name not in ("rt", "util")] == []


ENGINES = (ROOT / "docs" / "INTEGRATIONS.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", ENGINES, flags=re.S)


def test_configurations_of_vllm_are_valid():
    """Those of the command lines are JSON; ours name a class that is there and options that it reads."""
    given = [json.loads(text) for text in re.findall(r"--kv-transfer-config '(.*?)'", ENGINES, flags=re.S)]
    assert [each["kv_connector"] for each in given] == ["HbmeshConnector", "AscendStoreConnector"]
    from engines import installed, vllm_modules

    with installed(vllm_modules()):
        module = import_module(given[0]["kv_connector_module_path"])
        assert getattr(module, given[0]["kv_connector"]).__name__ == "HbmeshConnector"
    source = (ROOT / "python/hbmesh/integrations/vllm_connector.py").read_text()
    documented = set(re.findall(r"^\| `(\w+)` \|", ENGINES, flags=re.M))
    read = set(re.findall(r'extra(?:_config)?\("(\w+)"', source))
    assert documented == read and set(given[0]["kv_connector_extra_config"]) <= read


def test_the_configuration_of_vllm_ascend_is_understood(tmp_path, monkeypatch):
    (text,) = blocks("json")
    path = tmp_path / "yuanrong.json"
    path.write_text(text)
    monkeypatch.setenv("YR_CONFIG_PATH", str(path))
    monkeypatch.delenv("DS_WORKER_ADDR", raising=False)
    found = config.from_environment()
    assert (found.host, found.port, found.enable_remote_h2d) == ("10.0.0.1", 31501, True)


def test_the_configuration_of_lmcache_names_what_is_there():
    (text,) = blocks("yaml")
    lines = re.findall(r"^  remote_storage_plugin\.hbmesh\.(\w+): (\S+)$", text, flags=re.M)
    options = dict(lines)
    from engines import installed, lmcache_modules

    with installed(lmcache_modules()):
        adapter = getattr(import_module(options["module_path"]), options["class_name"])()
        assert adapter.can_parse("plugin://hbmesh") and adapter.can_parse(f"hbmesh://{options['address']}")
    assert config.split_address(options["address"]) == ("127.0.0.1", 31501)
