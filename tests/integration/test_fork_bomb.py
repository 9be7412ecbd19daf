"""Without the pids controller the number of processes still has an end, counted for each session on its own."""

import os

import machine

FORK = r"""
import os, signal, time
n = 0
try:
    while n < 60:
        if os.fork() == 0:
            signal.pause()
        n += 1
except OSError as e:
    print("refused after", n, e.errno)
print("made", n, flush=True)
if WAIT:
    open("ready", "w").close()
    time.sleep(30)
"""


def test_processes_are_counted_by_session(instance, alice):
    other, work = alice.workspace(), alice.workspace()
    for folder, wait in ((other, True), (work, False)):
        alice.write(folder + "/fork.py", FORK.replace("WAIT", str(wait)))
    child = instance.ctl_start(alice, "run", "-T", "--", "python3", "fork.py", cwd=other)
    try:
        assert machine.eventually(lambda: os.path.exists(other + "/ready"))
        # 60 processes of the same user elsewhere do not count, its own do.
        done = instance.sh(alice, "exec bash -c 'ulimit -u; ulimit -u 40; exec python3 fork.py'", workspace=work)
        words = done.stdout.split()
        assert words[0] == "8192" and "refused" in words, done
        assert 30 <= int(words[words.index("made") + 1]) < 40, done
    finally:
        child.kill()
        child.wait()


def test_limits_of_init_are_not_the_sessions_to_set(instance, alice):
    done = instance.sh(alice, "python3 -c 'import resource; resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3))' "
                              "2>/dev/null && echo set; prlimit --pid $$ --nofile=50:50 && ulimit -n")
    assert done.stdout == "50\n", done
