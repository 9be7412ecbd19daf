/*
 * io.sandboxd.Manager.Diagnose: what the launcher tried when it started and what the workers say now, in
 * words. Nothing is concluded from versions or configuration.
 */

#include <errno.h>

#include "daemon/api/manager.h"
#include "proto/base/error.h"
#include "proto/base/str.h"

#define FREE_BYTES_LOW (UINT64_C(256) * 1024 * 1024)

typedef struct Check {
        const char *name;
        const char *state;
        const char *message;
        const char *advice; /* NULL: nothing to do */
} Check;

typedef struct ProbeText {
        const char *name;
        const char *missing_state;
        const char *works;
        const char *missing;
        const char *advice;
} ProbeText;

#define KERNEL_ADVICE "use a kernel of Linux 6.1 or later, as distributions build it"

static const ProbeText probe_texts[] = {
        [PROBE_LANDLOCK] = { "landlock", "failure", "the kernel has it",
                             "no second layer for files: the kernel has no Landlock, or an older one than ABI 2",
                             KERNEL_ADVICE " and do not leave landlock out of lsm=" },
        [PROBE_LANDLOCK_SCOPING] = { "landlock-scoping", "warning",
                                     "signals and abstract sockets are scoped as well",
                                     "signals and abstract sockets are kept apart by namespaces alone",
                                     "Linux 6.12 or later has it" },
        [PROBE_OPENAT2] = { "openat2", "failure", "paths are opened without following links",
                            "paths cannot be opened without following links", KERNEL_ADVICE },
        [PROBE_MOUNT_API] = { "mount-api", "failure", "mounts are made by descriptor",
                              "open_tree or mount_setattr does not work", KERNEL_ADVICE },
        [PROBE_CLONE_INTO_CGROUP] = { "clone-into-cgroup", "failure",
                                      "processes are born in their control group",
                                      "processes cannot be born in a control group",
                                      "mount cgroup v2 and give the service a delegated group" },
        [PROBE_CGROUP_KILL] = { "cgroup-kill", "failure", "a control group is killed as a whole",
                                "a control group cannot be killed as a whole", KERNEL_ADVICE },
        [PROBE_SECCOMP] = { "seccomp", "failure", "system calls are filtered",
                            "the kernel has no seccomp filters", KERNEL_ADVICE },
        [PROBE_USER_NAMESPACE] = { "user-namespace", "failure", "user namespaces can be made",
                                   "user namespaces cannot be made",
                                   "raise user.max_user_namespaces; containers need it permitted" },
        [PROBE_NETWORK_NAMESPACE] = { "network-namespace", "failure", "network namespaces can be made",
                                      "network namespaces cannot be made",
                                      "raise user.max_net_namespaces; containers need it permitted" },
        [PROBE_REDIRECT] = { "network-redirect", "failure",
                             "every connection of a session is steered to its proxy",
                             "neither TPROXY nor sk_lookup works",
                             "load the module nft_tproxy, or use a kernel with BPF" },
        [PROBE_PEER_PIDFD] = { "peer-pidfd", "info", "callers are known by pidfd",
                               "callers are known by pid and checked to be alive",
                               "Linux 6.5 or later has it" },
        [PROBE_PASS_RIGHTS] = { "pass-rights", "info", "descriptors can be refused on a socket",
                                "descriptors that nobody asked for are received and closed",
                                "Linux 6.16 or later has it" },
        [PROBE_CGROUP_MEMORY] = { "cgroup-memory", "warning", "memory limits hold",
                                  "no memory limit can be enforced: asked for, it is an error",
                                  "give cgroup v2 the memory controller (cgroup_no_v1=all, Delegate=yes)" },
        [PROBE_CGROUP_PIDS] = { "cgroup-pids", "warning", "limits of processes hold",
                                "no limit of processes can be enforced: asked for, it is an error",
                                "give cgroup v2 the pids controller (cgroup_no_v1=all, Delegate=yes)" },
        [PROBE_CGROUP_CPU] = { "cgroup-cpu", "warning", "processor limits hold",
                               "no processor limit can be enforced: asked for, it is an error",
                               "give cgroup v2 the cpu controller (cgroup_no_v1=all, Delegate=yes)" },
        [PROBE_CGROUP_IO] = { "cgroup-io", "warning", "limits of disk traffic hold",
                              "no limit of disk traffic can be enforced: asked for, it is an error",
                              "give cgroup v2 the io controller (cgroup_no_v1=all, Delegate=yes)" },
        [PROBE_FANOTIFY] = { "protected-paths", "warning",
                             "kept by mounts and a guard beside each session, which knows who made what",
                             "kept by mounts and a guard, which cannot know who made what: what appears there stays, read-only inside",
                             "use a kernel with fanotify (Linux 5.9 or later)" },
        [PROBE_FUSE] = { "fuse", "warning",
                         "who opens, lists, looks at or looks for something below a denied path is recorded; "
                         "refused writes elsewhere are not, nor what is denied by a glob and appears later",
                         "denied paths are hidden, and nobody hears of attempts to open them",
                         "load the module fuse" },
        [PROBE_BPF_LSM] = { "bpf-lsm", "warning",
                            "the kernel refuses sessions to change protected paths: a trial was refused",
                            "protected paths are kept by mounts and a guard, which undoes a moment later what "
                            "was made there",
                            "add bpf to lsm= on the kernel command line" },
        [PROBE_FEXIT] = { "fexit", "info",
                          "a program can be attached to the end of a function; this version makes no use of it",
                          "BPF programs cannot be attached to functions", "use a kernel with BTF" },
        [PROBE_PINGS] = { "pings", "info", "what sessions try to ping is refused and recorded",
                          "what sessions try to ping is refused, and leaves no row",
                          "use a kernel with BPF for control groups, as distributions build it" },
        [PROBE_DEVICES] = { "cgroup-devices", "warning",
                            "device nodes are refused by the control group, too",
                            "device nodes are refused by the mounts only",
                            "use a kernel with BPF for control groups, as distributions build it" },
};
ASSERT_TABLE(probe_texts, _PROBE_MAX);

static int append(Json *list, const Check *c)
{
        _cleanup_json_ Json *o = NULL;
        int r;

        r = json_new_object(&o);
        if (r < 0 || (r = json_set_string(o, "name", c->name)) < 0 ||
            (r = json_set_string(o, "state", c->state)) < 0 ||
            (r = json_set_string(o, "message", c->message)) < 0 ||
            (c->advice && (r = json_set_string(o, "advice", c->advice)) < 0))
                return r;
        return json_append(list, TAKE_PTR(o));
}

/* Why the kernel does not prevent, where it could. */
static const char *prevention_advice(uint32_t step, const char *otherwise)
{
        static const char *const advice[] = {
                [PREVENTION_PROGRAM] = "sandboxd-bpf is not installed: build with clang and libbpf",
                [PREVENTION_LOAD] = "sandboxd-bpf failed, the daemon's log says why: it needs CAP_BPF and "
                                    "CAP_PERFMON, and a BPF file system at /sys/fs/bpf",
                [PREVENTION_TRIAL] =
                                "the programs are loaded and refused nothing in a trial: add bpf to lsm= "
                                "on the kernel command line, and start the daemon outside of cgroup "
                                "namespaces",
        };

        return step < ELEMENTSOF(advice) && advice[step] ? advice[step] : otherwise;
}

static int append_probe(Json *list, uint32_t name, const PrivProbe *p)
{
        const ProbeText *t = &probe_texts[name];
        char text[256];
        Check c = { .name = t->name, .state = "ok", .message = t->works };

        if (p->error == 0 && name == PROBE_LANDLOCK) {
                if (str_printf(text, sizeof(text), "%s, ABI %u", t->works, p->value) >= 0)
                        c.message = text;
        } else if (p->error == 0 && name == PROBE_REDIRECT) {
                if (str_printf(text, sizeof(text), "%s by %s; datagrams are refused%s", t->works,
                               p->value & REDIRECT_TPROXY ? "TPROXY" : "sk_lookup",
                               p->value & REDIRECT_LOGS ? " and recorded" : ", but not recorded") >= 0)
                        c.message = text;
        } else if (p->error != 0) {
                c.state = t->missing_state;
                c.message = t->missing;
                c.advice = t->advice;
                if (p->error == -EPERM && (name == PROBE_BPF_LSM || name == PROBE_FEXIT ||
                                           name == PROBE_PINGS || name == PROBE_DEVICES))
                        c.advice = "the daemon may not load BPF programs here: lockdown or a container forbids it";
                if (name == PROBE_BPF_LSM)
                        c.advice = prevention_advice(p->value, c.advice);
                if (str_printf(text, sizeof(text), "%s (%s)", t->missing, error_name(p->error)) >= 0)
                        c.message = text;
        }
        return append(list, &c);
}

static int append_store(Json *list, const PrivAuditState *state)
{
        char text[256];
        Check c = { .name = "audit-store",
                    .state = "failure",
                    .message = "the audit writer does not answer: every decision is deny",
                    .advice = "see the daemon's log" };

        if (state && state->error != 0) {
                c.message = "rows cannot be written: every decision is deny";
                if (str_printf(text, sizeof(text), "%s (%s)", c.message, error_name(state->error)) >= 0)
                        c.message = text;
                c.advice = "make room on the file system of the state directory, or look at its disk";
        } else if (state) {
                bool is_low = state->free_bytes < FREE_BYTES_LOW;

                c.state = is_low ? "warning" : "ok";
                c.advice = is_low ? "make room on the file system of the state directory" : NULL;
                c.message = "rows can be written";
                if (str_printf(text, sizeof(text), "rows can be written, %llu MiB are free",
                               (unsigned long long) (state->free_bytes >> 20)) >= 0)
                        c.message = text;
        }
        return append(list, &c);
}

static int append_workers(Json *list, const PrivManagerAnswer *a)
{
        const char *advice = "see the daemon's log; it is started again";
        char egress[128], blanks[128];
        const Check checks[] = {
                { "audit-worker", a->has_audit ? "ok" : "failure",
                  a->has_audit ? "confined, and serves" : "is not there", a->has_audit ? NULL : advice },
                { "dialer-worker", a->has_dialer ? "ok" : "failure",
                  a->has_dialer ? "confined, and serves" : "is not there", a->has_dialer ? NULL : advice },
                { "egress-workers", a->n_egress > 0 ? "ok" : "warning", egress,
                  a->n_egress > 0 ? NULL : "none is ready: the next session waits for one" },
                { "sessions-ahead", a->n_blanks > 0 ? "ok" : "info", blanks, NULL },
                { "masks", "info", "denied paths are hidden by mounts; nobody is told who tries them",
                  NULL },
                { "draining", a->is_draining ? "warning" : "ok",
                  a->is_draining ? "no new sessions are taken" : "new sessions are taken",
                  a->is_draining ? "`sandboxctl drain --cancel` takes new sessions again" : NULL },
        };
        int r;

        r = str_printf(egress, sizeof(egress), "%u of %u are confined and wait for a session", a->n_egress,
                       a->n_egress_max);
        if (r >= 0)
                r = str_printf(blanks, sizeof(blanks), "%u of %u are made", a->n_blanks, a->n_blanks_max);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(checks); i++)
                r = append(list, &checks[i]);
        return r;
}

static bool has_failure(const Json *list)
{
        for (size_t i = 0; i < json_n(list); i++) {
                if (str_equal(get_string(json_at(list, i), "state"), "failure"))
                        return true;
        }
        return false;
}

int diagnosis_format(const PrivManagerAnswer *answer, const PrivAuditState *state, Json **ret)
{
        _cleanup_json_ Json *p = NULL, *list = NULL;
        int r;

        r = json_new_object(&p);
        if (r >= 0)
                r = json_new_array(&list);
        for (uint32_t i = 0; r >= 0 && i < _PROBE_MAX; i++)
                r = append_probe(list, i, &answer->probes[i]);
        if (r >= 0)
                r = append_store(list, state);
        if (r >= 0)
                r = append_workers(list, answer);
        if (r >= 0)
                r = json_set_boolean(p, "healthy", !has_failure(list));
        if (r >= 0)
                r = json_set(p, "checks", TAKE_PTR(list));
        if (r >= 0)
                *ret = TAKE_PTR(p);
        return r;
}
