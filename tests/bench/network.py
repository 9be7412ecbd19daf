#!/usr/bin/python3
"""The network part of `./dev bench`: a session beside a direct veth, HAProxy, tinyproxy and a plain relay, in one run.

All of it in two network namespaces of its own: P holds the daemon, the proxies and the clients of what is no session,
S the server, behind a pair of veth. Each round measures every path once, in turn. Prints rows of a table as JSON.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "support"))

import machine  # noqa: E402

NEAR, FAR, PORT, WEB = "10.231.7.1", "10.231.7.2", "8080", "8081"
HAPROXY, TINYPROXY, RELAY, SPLICE = "18081", "18082", "18083", "18084"
POLICY = {"version": 1, "name": "bench", "extends": ["agent"], "limits": {"files": 20000}, "network": {"rules": [
    {"id": "tcp", "action": "allow", "cidr": FAR + "/32", "ports": [int(PORT)], "protocol": "tcp"},
    {"id": "web", "action": "allow", "cidr": FAR + "/32", "ports": [int(WEB)], "protocol": "http"}]}}
HAPROXY_CONFIG = f"""
global
    nbthread 1
    maxconn 8000
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen l
    bind 127.0.0.1:{HAPROXY} backlog 16384
    server s {FAR}:{PORT}
"""
TINYPROXY_CONFIG = f"Port {TINYPROXY}\nListen 127.0.0.1\nMaxClients 512\nTimeout 60\nLogLevel Critical\n"


def run(*argv):
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


class Namespaces:
    def __init__(self):
        self.near, self.far = f"sbxt-p{os.getpid()}", f"sbxt-s{os.getpid()}"
        for name in (self.near, self.far):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", self.near, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", self.far)
        for name, link, address in ((self.near, "v0", NEAR), (self.far, "v1", FAR)):
            run("ip", "-n", name, "addr", "add", address + "/24", "dev", link)
            run("ip", "-n", name, "link", "set", link, "up")
            for setting in ("ip_local_port_range=1024 65535", "tcp_tw_reuse=1", "tcp_max_syn_backlog=16384"):
                run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv4." + setting)
            run("ip", "netns", "exec", name, "sysctl", "-qw", "net.core.somaxconn=16384")

    def close(self):
        for name in (self.near, self.far):
            run("ip", "netns", "del", name)


def cpu_usec(pids):
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            fields = f.read().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks * 1e6 / os.sysconf("SC_CLK_TCK")


def busy_seconds():
    """Of all processors together, whoever used them."""
    with open("/proc/stat", encoding="ascii") as f:
        ticks = [int(x) for x in f.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def percentile(values, part):
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


class Bench:
    def __init__(self, folder, load, namespaces, user, instance):
        self.load, self.ns, self.user, self.instance = load, namespaces, user, instance
        self.profile = os.path.join(folder, "bench.json")
        self.work = user.workspace()
        load_copy = os.path.join(self.work, "load")
        run("cp", load, load_copy)
        self.inside = load_copy
        with open(self.profile, "w", encoding="utf-8") as f:
            json.dump(POLICY, f)
        self.children = []
        for port in (PORT, WEB):
            self.start(self.ns.far, [load, "server", FAR, port])
        self.proxies = {"haproxy": self.haproxy(folder), "tinyproxy": self.tinyproxy(folder),
                        "relay": self.start(self.ns.near, [load, "relay", "rw", "262144", RELAY, FAR, PORT]),
                        "splice": self.start(self.ns.near, [load, "relay", "splice", "262144", SPLICE, FAR, PORT])}
        self.session = instance.create(user, "-p", self.profile, cwd=self.work)

    def start(self, namespace, argv, is_ready=True):
        child = subprocess.Popen(["ip", "netns", "exec", namespace, *argv], stdout=subprocess.PIPE, text=True)
        self.children.append(child)
        if is_ready:
            assert child.stdout.readline() == "ready\n"
        return child

    def haproxy(self, folder):
        path = os.path.join(folder, "haproxy.cfg")
        with open(path, "w", encoding="ascii") as f:
            f.write(HAPROXY_CONFIG)
        return self.start(self.ns.near, ["haproxy", "-db", "-f", path], is_ready=False)

    def tinyproxy(self, folder):
        path = os.path.join(folder, "tinyproxy.conf")
        with open(path, "w", encoding="ascii") as f:
            f.write(TINYPROXY_CONFIG)
        return self.start(self.ns.near, ["tinyproxy", "-d", "-c", path], is_ready=False)

    def wait_for(self, port):
        argv = ["ip", "netns", "exec", self.ns.near, self.load, "latency", "127.0.0.1", port, "1"]
        assert machine.eventually(lambda: subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                                         check=False).returncode == 0, 30), port

    def close(self):
        for child in self.children:
            child.kill()
            child.wait()

    def outside(self, *argv):
        return run("ip", "netns", "exec", self.ns.near, self.load, *argv)

    def within(self, *argv, session=None):
        done = self.instance.ctl(self.user, "exec", session or self.session, "--", self.inside, *argv, timeout=600)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def egress(self):
        """The worker that has done most so far is the one of the session."""
        return max(self.instance.workers("sandboxd-egress"), key=lambda pid: cpu_usec([pid]))

    # ---- bytes ----

    def bulk(self, size, rounds):
        ways = {
            "direct": (lambda: self.outside("bulk", FAR, PORT, size), None),
            "session": (lambda: self.within("bulk", FAR, PORT, size), self.egress),
            "haproxy": (lambda: self.outside("bulk", "127.0.0.1", HAPROXY, size), lambda: self.proxies["haproxy"].pid),
            "relay": (lambda: self.outside("bulk", "127.0.0.1", RELAY, size), lambda: self.proxies["relay"].pid),
            "splice": (lambda: self.outside("bulk", "127.0.0.1", SPLICE, size), lambda: self.proxies["splice"].pid),
        }
        speeds, costs, uses = {name: [] for name in ways}, {name: [] for name in ways}, {name: [] for name in ways}
        self.within("bulk", FAR, PORT, size)
        for _ in range(rounds):
            for name, (measure, pid_of) in ways.items():
                pid = pid_of() if pid_of else None
                before = cpu_usec([pid]) if pid else 0
                used = busy_seconds()
                nanoseconds = int(measure().split()[0])
                uses[name].append((busy_seconds() - used) / (int(size) / 2**30))
                speeds[name].append(int(size) * 8 / nanoseconds)
                costs[name].append((cpu_usec([pid]) - before) / 1e6 / (int(size) / 2**30) if pid else 0)
        return [{name: statistics.median(v) for name, v in found.items()} for found in (speeds, costs, uses)]

    # ---- connections ----

    def rates(self, rounds, seconds):
        absolute = f"http://{FAR}:{WEB}"
        ways = {
            "direct16": lambda: self.outside("rate", FAR, WEB, "", "16", seconds),
            "session16": lambda: self.within("rate", "127.0.0.1", "3128", absolute, "16", seconds),
            "tinyproxy16": lambda: self.outside("rate", "127.0.0.1", TINYPROXY, absolute, "16", seconds),
            "direct256": lambda: self.outside("rate", FAR, PORT, "", "256", seconds),
            "session256": lambda: self.within("rate", FAR, PORT, "", "256", seconds),
            "haproxy256": lambda: self.outside("rate", "127.0.0.1", HAPROXY, "", "256", seconds),
        }
        found = {name: [] for name in ways}
        for _ in range(rounds):
            for name, measure in ways.items():
                per_second, n_failed = measure().split()
                assert int(n_failed) <= float(per_second) * float(seconds) / 100, (name, per_second, n_failed)
                found[name].append(float(per_second))
        return {name: statistics.median(v) for name, v in found.items()}

    # ---- many at once ----

    def crowd(self, n, count, rounds):
        """Decisions of another session, while this one holds n connections and while it holds none."""
        other = self.instance.create(self.user, "-p", self.profile, cwd=self.work)
        idle, busy, n_held = [], [], []
        for _ in range(rounds):
            idle.append(percentile([int(x) for x in self.within("latency", FAR, PORT, count, session=other).split()], 0.99))
            holder = self.instance.ctl_start(self.user, "exec", self.session, "--", self.inside, "hold", FAR, PORT, n,
                                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            n_held.append(int(holder.stdout.readline() or 0))
            busy.append(percentile([int(x) for x in self.within("latency", FAR, PORT, count, session=other).split()], 0.99))
            holder.stdin.close()
            holder.wait()
        return min(n_held), statistics.median(idle) / 1e3, statistics.median(busy) / 1e3


def verdict(ratio, bound, is_at_least):
    reached = ratio >= bound if is_at_least else ratio <= bound
    return f"{'reached' if reached else 'missed'} ({'>=' if is_at_least else '<='} {bound})"


def rows_of(bench, rounds):
    rows = []
    speed, cost, use = bench.bulk(str(2**30), rounds)
    texts = {"direct": "one stream, direct veth", "session": "one stream out of a session, transparent",
             "haproxy": "one stream, HAProxy in TCP mode, one thread", "relay": "one stream, a plain epoll relay, read and send",
             "splice": "one stream, a plain epoll relay, splice"}
    for name, text in texts.items():
        ratio = speed[name] / speed["direct"]
        rows.append([text, f"{speed[name]:.1f} Gb/s, {use[name]:.2f} CPU s/GiB"
                     + (f", {cost[name]:.2f} of them the relay's" if cost[name] else ""),
                     f"{ratio:.2f} x direct", verdict(ratio, 0.9, True) if name == "session" else ""])
    rate = bench.rates(rounds, "2")
    for suffix, name, text, peer, bound in (("16", "session", "absolute form, 16 at once, each with its rows", "tinyproxy", 1.0),
                                            ("16", "tinyproxy", "absolute form, 16 at once, tinyproxy", None, 0),
                                            ("16", "direct", "16 at once, direct veth", None, 0),
                                            ("256", "session", "transparent, 256 at once, each with its rows", "haproxy", 0.8),
                                            ("256", "haproxy", "256 at once, HAProxy in TCP mode", None, 0),
                                            ("256", "direct", "256 at once, direct veth", None, 0)):
        value = rate[name + suffix]
        ratio = value / rate[peer + suffix] if peer else 0
        rows.append(["connections: " + text, f"{value:.0f}/s", f"{ratio:.2f} x {peer}" if peer else "",
                     verdict(ratio, bound, True) if peer else ""])
    n, idle, busy = bench.crowd("10000", "300", max(1, rounds // 2))
    rows.append([f"decisions of another session, p99, while one holds {n} connections", f"{busy:.0f} µs",
                 f"{busy / idle:.2f} x idle ({idle:.0f} µs)", verdict(busy / idle, 2, False) if n >= 10000 else f"missed: {n} of 10000 (a process may have {resource.getrlimit(resource.RLIMIT_NOFILE)[1]} descriptors)"])
    return rows


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    namespaces = Namespaces()
    try:
        with tempfile.TemporaryDirectory(prefix="sbxt-bench-", dir="/var/tmp") as folder, machine.test_user("n") as user:
            os.chmod(folder, 0o755)
            load = os.path.join(folder, "load")
            run("gcc", "-O2", "-D_GNU_SOURCE", "-o", load, os.path.join(HERE, "load.c"))
            instance = machine.Instance(settings={"limits": {"rows_per_second": 1000000, "rows_share": 100},
                                                  "resolver": {"servers": ["127.0.0.1"]}})
            instance.prefix = ["nsenter", f"--net=/run/netns/{namespaces.near}"]
            with instance:
                bench = Bench(folder, load, namespaces, user, instance)
                try:
                    bench.wait_for(HAPROXY)
                    bench.wait_for(TINYPROXY)
                    print(json.dumps(rows_of(bench, rounds)))
                finally:
                    bench.close()
                    instance.ctl(user, "terminate", "--all")
    finally:
        namespaces.close()


if __name__ == "__main__":
    main()
