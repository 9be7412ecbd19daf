"""Protected paths, where the kernel refuses to change them (BPF as a security module): in a virtual machine with Debian's kernel."""

import json

import pytest

import guest_protect
from vm import TOP, Vm


@pytest.fixture(scope="module")
def results():
    with Vm() as machine:
        status, output = machine.boot(f"/usr/bin/python3 {TOP}/tests/vm/guest_protect.py", timeout=1500)
        assert status == 0, output + machine.read("console")[-4000:]
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {line["trial"]: line["result"] for line in lines if "trial" in line} | {"output": output}


@pytest.mark.parametrize("trial", [trial.__name__.replace("_", " ") for trial in guest_protect.TRIALS])
def test_protect(results, trial):
    assert results.get(trial) is True, f"{results.get(trial)}\n{results['output'][-6000:]}"
