#include "daemon/isolate/pings.h"

#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon/isolate/ebpf.h"
#include "daemon/isolate/netns.h"
#include "daemon/isolate/spawn.h"
#include "proto/base/bpf_ring.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/id.h"
#include "proto/base/log.h"

#define RING_BYTES    65536U /* a page is a power of two, and not more, everywhere */
#define COUNTERS_MAX  8192U
#define NSEC_PER_USEC UINT64_C(1000)
#define PAUSE_NSEC    500000000 /* between two that are told of a namespace */
#define TRIES_MAX     2U        /* IPv4, IPv6 */

struct Pings {
        int counters_fd;
        int ring_fd;
        BpfRing *ring;
};

/* Of a namespace, by its cookie. */
typedef struct Counter {
        uint64_t n;
        uint64_t told_nsec; /* CLOCK_MONOTONIC; 0: it is to be told next time */
} Counter;

#define CONTEXT(field) (int16_t) offsetof(struct bpf_sock, field)
#define FIELD(field)   (int16_t) offsetof(Counter, field)

/* The stack: the cookie, and below it a new counter. */
#define COOKIE (-8)
#define FRESH  (COOKIE - (int) sizeof(Counter))

enum { COUNT = 8, FOUND = 33, DENY = 51, N_CODE = 53 };
enum { MAP_LOOKUP = 11, MAP_UPDATE = 19, MAP_AGAIN = 27, MAP_RING = 42 };

/* Raw sockets need a right that nobody inside has; whoever had it would not get one either. Register 7: the
 * counter; 8: now. A full ring is told of the next one instead. */
static const struct bpf_insn program[N_CODE] = {
        MOVE(6, 1),
        LOAD(1, CONTEXT(type)),
        IF(2, 1, SOCK_RAW, DENY),
        LOAD(1, CONTEXT(protocol)),
        IF(4, 1, IPPROTO_ICMP, COUNT),
        IF(5, 1, IPPROTO_ICMPV6, COUNT),
        SET(0, 1),
        EXIT,
        /* COUNT */
        MOVE(1, 6),
        CALL(BPF_FUNC_get_netns_cookie),
        STORE_AT(10, COOKIE, 0),
        LOAD_MAP(1),
        MOVE(2, 10),
        ADD(2, COOKIE),
        CALL(BPF_FUNC_map_lookup_elem),
        UNLESS_NULL(16, 0, FOUND),
        CLEAR_AT(10, FRESH),
        CLEAR_AT(10, FRESH + 8),
        LOAD_MAP(1),
        MOVE(2, 10),
        ADD(2, COOKIE),
        MOVE(3, 10),
        ADD(3, FRESH),
        SET(4, BPF_NOEXIST),
        CALL(BPF_FUNC_map_update_elem),
        LOAD_MAP(1),
        MOVE(2, 10),
        ADD(2, COOKIE),
        CALL(BPF_FUNC_map_lookup_elem),
        IF_NULL(32, 0, DENY),
        /* FOUND */
        MOVE(7, 0),
        SET(1, 1),
        ADD_AT(7, FIELD(n), 1),
        CALL(BPF_FUNC_ktime_get_ns),
        LOAD_AT(1, 7, FIELD(told_nsec)),
        MOVE(8, 0),
        SUB(0, 1),
        IF_LESS(40, 0, PAUSE_NSEC, DENY),
        STORE_AT(7, FIELD(told_nsec), 8),
        LOAD_MAP(1),
        MOVE(2, 10),
        ADD(2, COOKIE),
        SET(3, sizeof(uint64_t)),
        SET(4, 0),
        CALL(BPF_FUNC_ringbuf_output),
        IF_NULL(49, 0, DENY),
        CLEAR_AT(7, FIELD(told_nsec)),
        /* DENY */
        SET(0, 0),
        EXIT,
};

static int make_map(union bpf_attr *attr, int *ret_fd)
{
        long fd = ebpf_call(BPF_MAP_CREATE, attr);

        if (fd < 0)
                return neg_errno();
        *ret_fd = (int) fd;
        return 0;
}

static int make_maps(Pings *p)
{
        union bpf_attr attr;
        int r;

        memset(&attr, 0, sizeof(attr));
        attr.map_type = BPF_MAP_TYPE_HASH;
        attr.key_size = sizeof(uint64_t);
        attr.value_size = sizeof(Counter);
        attr.max_entries = COUNTERS_MAX;
        attr.map_flags = BPF_F_NO_PREALLOC;
        r = make_map(&attr, &p->counters_fd);
        if (r < 0)
                return r;
        memset(&attr, 0, sizeof(attr));
        attr.map_type = BPF_MAP_TYPE_RINGBUF;
        attr.max_entries = RING_BYTES;
        r = make_map(&attr, &p->ring_fd);
        return r < 0 ? r : bpf_ring_open(p->ring_fd, RING_BYTES, &p->ring);
}

static int load(const Pings *p, int *ret_fd)
{
        struct bpf_insn code[N_CODE];

        memcpy(code, program, sizeof(code));
        code[MAP_LOOKUP].imm = code[MAP_UPDATE].imm = code[MAP_AGAIN].imm = p->counters_fd;
        code[MAP_RING].imm = p->ring_fd;
        return ebpf_load(BPF_PROG_TYPE_CGROUP_SOCK, BPF_CGROUP_INET_SOCK_CREATE, code, N_CODE, ret_fd);
}

int pings_new(const CgroupBase *base, Pings **ret)
{
        _cleanup_(pings_freep) Pings *p = calloc(1, sizeof(*p));
        _cleanup_close_ int program_fd = -EBADF;
        int r;

        if (!p)
                return -ENOMEM;
        *p = (Pings){ .counters_fd = -EBADF, .ring_fd = -EBADF };
        r = make_maps(p);
        if (r >= 0)
                r = load(p, &program_fd);
        if (r >= 0)
                r = ebpf_attach(cgroup_base_fd(base), program_fd, BPF_CGROUP_INET_SOCK_CREATE);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(p);
        return 0;
}

Pings *pings_free(Pings *p)
{
        if (!p)
                return NULL;
        p->ring = bpf_ring_close(p->ring);
        p->ring_fd = fd_close(p->ring_fd);
        p->counters_fd = fd_close(p->counters_fd);
        free(p);
        return NULL;
}

int pings_fd(const Pings *p)
{
        return p->ring_fd;
}

bool pings_take(Pings *p, uint64_t *ret_cookie)
{
        return bpf_ring_take(p->ring, ret_cookie, sizeof(*ret_cookie));
}

static void fill_key(const Pings *p, const uint64_t *cookie, union bpf_attr *ret)
{
        memset(ret, 0, sizeof(*ret));
        ret->map_fd = (uint32_t) p->counters_fd;
        ret->key = (uint64_t) (uintptr_t) cookie;
}

uint64_t pings_count(const Pings *p, uint64_t cookie, bool *ret_is_awake)
{
        uint64_t now_nsec = clock_monotonic_usec() * NSEC_PER_USEC;
        Counter found = { .n = 0 };
        union bpf_attr attr;

        fill_key(p, &cookie, &attr);
        attr.value = (uint64_t) (uintptr_t) &found;
        if (ebpf_call(BPF_MAP_LOOKUP_ELEM, &attr) < 0)
                found.n = 0;
        /* Our clock was read first: the program's is later by then. */
        *ret_is_awake = now_nsec >= found.told_nsec + PAUSE_NSEC;
        return found.n;
}

void pings_forget(const Pings *p, uint64_t cookie)
{
        union bpf_attr attr;

        fill_key(p, &cookie, &attr);
        (void) ebpf_call(BPF_MAP_DELETE_ELEM, &attr);
}

/* ---- the trial ---- */

typedef struct Trial {
        int network_fd;
        bool has_v6;
} Trial;

static bool is_refused(int family, int protocol)
{
        _cleanup_close_ int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, protocol);

        /* EACCES would be the namespace's own answer. */
        return fd < 0 && errno == EPERM;
}

static int run_trial(const void *userdata)
{
        const Trial *t = userdata;

        if (setns(t->network_fd, CLONE_NEWNET) < 0)
                return EXIT_FAILURE;
        return is_refused(AF_INET, IPPROTO_ICMP) && (!t->has_v6 || is_refused(AF_INET6, IPPROTO_ICMPV6)) ? 0
                                                                                                         : 1;
}

/* What it told of must be all that there was. */
static int check_told(Pings *p, uint64_t cookie, uint64_t n_expected)
{
        bool is_awake;
        uint64_t told = 0, n = pings_count(p, cookie, &is_awake);
        bool is_told = pings_take(p, &told) && told == cookie;

        pings_forget(p, cookie);
        return cookie != 0 && is_told && n == n_expected ? 0 : -ENOTRECOVERABLE;
}

int pings_try(Pings *p, const CgroupBase *base, int home_fd, const Steering *steering)
{
        NetworkNamespace n = NETNS_INIT;
        Trial t;
        int r;

        r = netns_new(home_fd, steering, &n);
        if (r < 0)
                return r;
        t = (Trial){ .network_fd = n.fd, .has_v6 = n.socket_fds[EGRESS_PROXY6] >= 0 };
        r = ebpf_try(base, run_trial, &t);
        if (r >= 0)
                r = check_told(p, n.cookie, t.has_v6 ? TRIES_MAX : 1);
        netns_done(&n);
        return r;
}
