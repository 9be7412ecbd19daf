#!/usr/bin/python3
"""`./dev bench [ROUNDS]`: sessions beside bubblewrap and a floor program in one run; writes docs/performance.md."""

import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "support"))

import flood  # noqa: E402
import machine  # noqa: E402
import stubs  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
DOCUMENT = os.path.join(machine.TOP, "docs/performance.md")
BWRAP = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "true"]


def build(folder, name):
    path = os.path.join(folder, name)
    subprocess.run(["gcc", "-O2", "-D_GNU_SOURCE", "-o", path, os.path.join(HERE, name + ".c")], check=True)
    return path


WARM = 10
PAUSE_MSEC = 10


def measure(user, rounds, commands, count, pause_msec, instance, cwd):
    """Sorted nanoseconds of each command, run in turn with a pause before each."""
    argv = [rounds, str(count), str(WARM), str(pause_msec)]
    for number, command in enumerate(commands):
        argv += (["---"] if number else []) + command
    done = user.run(argv, cwd=cwd, timeout=1800, env=user.environment(SANDBOXD_ADDRESS=instance.address))
    lines = done.stdout.strip().splitlines()
    found = [sorted(int(word) for word in line.split()) for line in lines[-len(commands):]] if done.returncode == 0 else []
    if len(found) != len(commands):
        raise SystemExit(f"bench: {done.stderr.strip()}")
    return found


def machine_line():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        models = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
    kernel = os.uname()
    bwrap = subprocess.run(["bwrap", "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    model = models[0] if models else kernel.machine
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE") / 2**30
    with open("/proc/sys/net/ipv4/tcp_congestion_control", encoding="ascii") as f:
        congestion = f.read().strip()
    return f"{len(models)} x {model}, {memory:.0f} GiB, Linux {kernel.release} with {congestion}, {bwrap}"


def verdict(ratio, bound):
    if bound is None:
        return ""
    return f"{'reached' if ratio <= bound else 'missed'} (<= {bound})"


NETWORK_TEXT = """

Client, relay and server are a process each, in two namespaces of the bench's own with a pair of veth between them, and share
the machine's processors; each path in turn within each round, medians. Proxies are Debian's, with one thread. Decisions and
namespaces are counted in processor time, other lines by the clock; processor seconds for each GiB are those of the whole
machine: client, relay, server, and whatever else ran.

Bytes go by `read` and `send`: the plain relay shows that `splice` is not faster here, and a pipe for each direction would cost
memory that the kernel counts for all workers together. A relay copies each byte twice more than the direct path does, on the
same processors, so what the plain relay reaches is what any relay can: with `bbr`, which paces what the server sends, most of
the direct path's; with `reno` and `cubic`, under which the direct path is two to five times as fast, about 0.45 of it.
Inside a session, and towards the client of the plain relay, it is always `reno`: between a program and its egress worker
there is nothing to pace (with the machine's `bbr` there, too, a relay took nearly twice the processor time). Larger buffers
(512 KiB to 1 MiB), other sizes of the sockets' buffers and a pipe of 1 MiB made no difference that could be measured.
`SO_RCVLOWAT` did, but holds back what is smaller; `MSG_ZEROCOPY` is a copy on veth and loopback; sockmap was two to three
times slower, and its kernel threads cut streams whose sender closed at once.

A connection has two descriptors in its session's worker, which may have 32,768 where the machine lets it (the unit asks for
65,536), and so 12,288 connections. Where it may have fewer, connections that rest have one
([decisions/0058](decisions/0058-connections-that-rest.md)). In `./dev vm`, where it may, one session held 10,000; the p99 of
another session's decisions was 0.7 of what it was before, on an emulated processor that was never idle.

Each connection out of a session has its row, and its request's, committed to disk before it is made. While decisions come
several at a time, audit waits 0.2 ms for those on their way and commits them together; who asks alone does not wait. Ends of
connections, for which nobody waits, go with the next commit, or with one of their own within 10 ms.
"""


def network_table(rounds):
    done = subprocess.run([sys.executable, os.path.join(HERE, "network.py"), str(rounds)], stdout=subprocess.PIPE, text=True,
                          check=True)
    rows = json.loads(done.stdout) + parts_rows()
    return ["| what | measured | ratio | to reach |", "|---|---|---|---|"] + ["| " + " | ".join(row) + " |" for row in rows]


def parts_rows():
    texts = {"decision": ("one decision on 100,000 host rules", "a hash look-up of the name", 2),
             "network": ("the whole network of a session", "a namespace with lo up", 3)}
    done = subprocess.run([os.path.join(machine.BUILD, "tests/bench/bench-parts")], stdout=subprocess.PIPE, text=True, check=True)
    rows = []
    for line in done.stdout.splitlines():
        name, ours, bare, n_allocations = line.split()
        text, other, bound = texts[name]
        more = f", {n_allocations} allocations" if name == "decision" else ""
        unit = (1, "ns") if name == "decision" else (1000, "µs")
        rows.append([text, f"{int(ours) / unit[0]:.0f} {unit[1]}{more}", f"{int(ours) / int(bare):.2f} x {other}",
                     verdict(int(ours) / int(bare), bound)])
    return rows


FLOOD_ROUNDS = 7
FLOOD_SAMPLES = 200
FLOOD_TEXT = f"""

The times of another user's calls and commands while one process of a user gives the daemon as much work as it can: it opens
connections and closes them, leaves messages half, asks (64 questions at a time), creates sessions, reads the log, sends what is
too long. *One thread*: it does one of these, and the worst of them counts, for each line the one that it names. *Six threads*:
all of them at once. *Beside the daemon*: as many threads that make system calls of no concern to the daemon; what a process may
take of the processors is not the daemon's to say. Idle and floods in turn, {FLOOD_ROUNDS} rounds, {FLOOD_SAMPLES} calls and as many commands in each;
medians of the rounds' percentiles.
"""


def flood_row(text, part, idle, found, bound):
    ratio = found[0] / idle
    return (f"| {text} | {part * 100:.0f} | {idle:.0f} | {found[0]:.0f} ({found[1]}) | {ratio:.1f} | "
            f"{verdict(ratio, bound if part > 0.9 else None)} |")


def flood_table():
    """Another user's times while one process of a user does all that it can."""
    names = {"call": "a call on a connection of its own", "exec": "`Exec` of true, with its rows"}
    alone = {kind: [kind] for kind in flood.KINDS}
    beside = {"1 beside": ["nobody"], "6 beside": ["nobody"] * len(flood.KINDS)}
    with machine.test_user("f") as flooder, machine.test_user("q") as user, machine.Instance() as instance:
        measured = flood.Measure(instance, user)
        measured.rounds(50)
        times = flood.compare(instance, flooder, measured, {**alone, "all": flood.KINDS, **beside}, FLOOD_ROUNDS, FLOOD_SAMPLES)
        measured.close()
    rows = ["| another user's | percentile | idle µs | flooded µs | x idle | to reach |", "|---|---|---|---|---|---|"]
    for name, of in times.items():
        for part in (0.5, 0.99):
            found = {stretch: flood.median_percentile(rounds, part) for stretch, rounds in of.items()}
            worst = max((found[kind], kind) for kind in alone)
            for text, value, bound in (("one thread", worst, 5), ("six threads", (found["all"], "all"), 5),
                                       ("one thread beside the daemon", (found["1 beside"], "nothing of it"), None),
                                       ("six threads beside the daemon", (found["6 beside"], "nothing of it"), None)):
                rows.append(flood_row(f"{names[name]}; {text}", part, found["idle"], value, bound))
    return rows


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    load = os.getloadavg()[0]
    folder = tempfile.mkdtemp(prefix="sbxt-bench-", dir="/var/tmp")
    os.chmod(folder, 0o755)
    dns = stubs.DnsStub({})
    try:
        rounds, floor = build(folder, "rounds"), build(folder, "floor")
        settings = {"resolver": {"servers": [f"127.0.0.1:{dns.port}"]}}
        with machine.test_user("p") as user, machine.Instance(settings=settings) as instance:
            work = user.workspace()
            session = instance.create(user, cwd=work)
            named = [
                ("true", "fork and exec of /bin/true, nothing else", ["/bin/true"], None),
                ("floor", "floor: the namespaces and mounts of a session, exec", [floor, work, "/bin/true"], None),
                ("bwrap", "`" + " ".join(BWRAP) + "`", BWRAP, None),
                ("exec", "`sandboxctl exec ID -- true`: own control group, audit rows",
                 [machine.CTL, "exec", session, "--", "/bin/true"], 0.5),
                ("run", "`sandboxctl run -- true`: create, exec, remove, all layers",
                 [machine.CTL, "run", "-T", "--", "/bin/true"], 1.2),
            ]
            commands = [command for _, _, command, _ in named]
            found = measure(user, rounds, commands, count, 0, instance, work)
            rested = measure(user, rounds, commands, count, PAUSE_MSEC, instance, work)
            instance.ctl(user, "terminate", session)
    finally:
        dns.close()
        shutil.rmtree(folder)
    medians, after_rest = ({name: statistics.median(times) for (name, _, _, _), times in zip(named, part)}
                           for part in (found, rested))
    table = ["| what | p50 µs | p90 µs | x bwrap | x floor | to reach | x bwrap after a rest |",
             "|---|---|---|---|---|---|---|"]
    for (name, text, _, bound), times in zip(named, found):
        ratio = medians[name] / medians["bwrap"]
        table.append(f"| {text} | {medians[name] / 1000:.0f} | {times[int(len(times) * 0.9)] / 1000:.0f} | {ratio:.2f} | "
                     f"{medians[name] / medians['floor']:.2f} | {verdict(ratio, bound)} | "
                     f"{after_rest[name] / after_rest['bwrap']:.2f} |")
    flooded = flood_table()
    network = network_table(max(3, count // 40))
    print("\n".join(table + [""] + flooded + [""] + network))
    document = f"""# Performance

What `./dev bench` printed, and nothing else: {count} rounds after {WARM} that do not count, the commands in turn within each
round, all as one ordinary user, the times of whole processes as their parent sees them. Read the ratios; the times are those
of one machine.

The last column is another {count} rounds with {PAUSE_MSEC} ms of rest before each command: what the kernel still takes down after a
command (namespaces go after their last process) is nobody's then, and processors that slept have to be woken, which `exec`,
several processes that hand a request on, feels more than one process that does all.

{datetime.date.today().isoformat()}, {machine_line()}; audit store on {store_line()}; load average
{load:.1f} when it began.

""" + "\n".join(table) + """

The floor program (tests/bench/floor.c) makes the namespaces, mounts and masks of a session and starts the command: no
filter, no control group, no audit row. The bubblewrap line has no private home, masks, filter or record either.

## A flood by another user

""" + FLOOD_TEXT.strip() + """

""" + "\n".join(flooded) + """

## The network

""" + "\n".join(network) + NETWORK_TEXT
    with open(DOCUMENT, "w", encoding="utf-8") as f:
        f.write(document)
    missed = [name for name, _, _, bound in named if bound and medians[name] / medians["bwrap"] > bound]
    return 1 if missed else 0


def store_line():
    done = subprocess.run(["stat", "-f", "-c", "%T", "/run"], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
