"""sandboxd as a service of systemd, with controllers, several users and a loss of power: in a virtual machine."""

import json

import pytest

import guest
from vm import TOP, Vm

GUEST = f"/usr/bin/python3 {TOP}/tests/vm/guest.py"


def lines_of(output):
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def machine():
    with Vm() as found:
        yield found


@pytest.fixture(scope="module")
def results(machine):
    status, output = machine.boot(GUEST, timeout=1500)
    assert status == 0, output + machine.read("console")[-4000:]
    return {line["trial"]: line["result"] for line in lines_of(output) if "trial" in line} | {"output": output}


@pytest.mark.parametrize("trial", [trial.__name__.replace("_", " ") for trial in guest.TRIALS])
def test_service(results, trial):
    assert results.get(trial) is True, f"{results.get(trial)}\n{results['output'][-6000:]}"


def test_rows_that_somebody_was_told_survive_a_loss_of_power(machine, results):
    status, output = machine.boot(f"{GUEST} write_rows_until_the_power_goes", timeout=600)
    told = [line["told"] for line in lines_of(output) if "told" in line]
    assert status is None and told, output
    status, output = machine.boot(f"{GUEST} what_was_told_is_still_there", timeout=600)
    found = [line for line in lines_of(output) if "verify" in line]
    assert status == 0 and found, output + machine.read("console")[-4000:]
    assert found[0]["verify"] == 0, found[0]["says"]
    assert found[0]["last"] >= told[0]
