#include "daemon/isolate/filter.h"

#include <errno.h>
#include <linux/net.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "daemon/isolate/bpf.h"
#include "daemon/isolate/filter_list.h"
#include "daemon/isolate/kernel.h"

/*
 * An allow-list. What it does not name is ENOSYS, so that programs fall back as on an older kernel; what a
 * program could rightly expect but a session may not do is EPERM. libseccomp knows the numbers of the calls;
 * the program is our own, since "all requests but these five" cannot be said to libseccomp on an allow-list,
 * and since a tree over ranges of numbers is loaded in half the time (the kernel runs it once for each
 * number).
 */

#define RET_ERRNO(e) (SECCOMP_RET_ERRNO | (uint32_t) (e))
#define NUMBER_MAX   1024
#define RUNS_MAX     512U
#define NAMESPACE_FLAGS                                                                               \
        (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | \
         CLONE_NEWNET | CLONE_NEWTIME)
#define SOCKET_TYPE_MASK UINT32_C(0xf)
#define NEW_LISTENER     (UINT32_C(1) << 3)
#define SET_ID_BITS      (S_ISUID | S_ISGID)

typedef void (*CheckFunction)(BpfProgram *p);

/* What one number of a system call leads to: an action, or a check that ends in one. */
typedef struct Entry {
        uint32_t action;
        CheckFunction check;
} Entry;

typedef struct Run {
        uint32_t begin; /* first number */
        Entry entry;
} Run;

/* ---- checks of arguments: each ends with a return ---- */

/* The kernel ignores the upper half; a flag there is refused all the same, as a sign of an attempt. */
static void check_clone(BpfProgram *p)
{
        bpf_load_low(p, 0);
        bpf_return_if_bits(p, NAMESPACE_FLAGS, RET_ERRNO(EPERM));
        bpf_load_high(p, 0);
        bpf_return_if_bits(p, NAMESPACE_FLAGS, RET_ERRNO(EPERM));
        bpf_return(p, SECCOMP_RET_ALLOW);
}

/* Terminals that type for others, frozen file systems. The kernel looks at 32 bits of the request. */
static void check_ioctl(BpfProgram *p)
{
        static const uint32_t refused[] = {
                0x5412,     /* TIOCSTI */
                0x541c,     /* TIOCLINUX */
                0x541d,     /* TIOCCONS */
                0x5423,     /* TIOCSETD */
                0x5453,     /* TIOCSERCONFIG */
                0x5458,     /* TIOCSERGSTRUCT */
                0xc0045877, /* FIFREEZE */
                0xc0045878, /* FITHAW */
                0xc0185879, /* FITRIM */
        };

        bpf_load_low(p, 1);
        for (size_t i = 0; i < ELEMENTSOF(refused); i++)
                bpf_return_if_equal(p, refused[i], RET_ERRNO(EPERM));
        bpf_return(p, SECCOMP_RET_ALLOW);
}

/* The kernel lets a process set the limits of another of its user: not those of init. */
static void check_prlimit(BpfProgram *p)
{
        bpf_load_low(p, 0);
        bpf_return_if_equal(p, 1, RET_ERRNO(EPERM));
        bpf_return(p, SECCOMP_RET_ALLOW);
}

/* Nobody here has rights that could be kept, and the locked bit would refuse. Programs that give up what a
 * file gave them, as ping does, take that for a fault. */
static void check_prctl(BpfProgram *p)
{
        bpf_load_low(p, 0);
        bpf_return_if_equal(p, PR_SET_KEEPCAPS, RET_ERRNO(0));
        bpf_return(p, SECCOMP_RET_ALLOW);
}

static void check_personality(BpfProgram *p)
{
        bpf_load_low(p, 0);
        bpf_return_if_equal(p, 0, SECCOMP_RET_ALLOW);
        bpf_return_if_equal(p, UINT32_MAX, SECCOMP_RET_ALLOW);
        bpf_return(p, RET_ERRNO(EPERM));
}

/* Loaded: a family. Behind it the program for that family alone. */
static size_t begin_family(BpfProgram *p, uint32_t family)
{
        return bpf_put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 0, family);
}

static void end_family(BpfProgram *p, size_t at)
{
        p->code[at].jf = (uint8_t) (p->n - at - 1);
}

static void load_socket_type(BpfProgram *p)
{
        bpf_load_low(p, 1);
        (void) bpf_put(p, BPF_ALU | BPF_AND | BPF_K, 0, 0, SOCKET_TYPE_MASK);
}

/* Loaded: a type. If it is this one, only protocol 0 or one of those two passes. */
static void allow_protocols(BpfProgram *p, uint32_t type, uint32_t protocol, uint32_t other)
{
        size_t at = bpf_put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 0, type);

        bpf_load_low(p, 2);
        bpf_return_if_equal(p, 0, SECCOMP_RET_ALLOW);
        bpf_return_if_equal(p, protocol, SECCOMP_RET_ALLOW);
        if (other != protocol)
                bpf_return_if_equal(p, other, SECCOMP_RET_ALLOW);
        bpf_return(p, RET_ERRNO(EPERM));
        end_family(p, at);
}

static void allow_protocol(BpfProgram *p, uint32_t type, uint32_t protocol)
{
        allow_protocols(p, type, protocol, protocol);
}

static void check_socket_inet(BpfProgram *p, uint32_t family, uint32_t datagrams)
{
        size_t at = begin_family(p, family);

        load_socket_type(p);
        allow_protocol(p, SOCK_STREAM, IPPROTO_TCP);
        allow_protocols(p, SOCK_DGRAM, IPPROTO_UDP, datagrams);
        bpf_return(p, RET_ERRNO(EPERM));
        end_family(p, at);
}

static void put_check_socket(BpfProgram *p, bool lets_pings)
{
        size_t at;

        bpf_load_low(p, 0);
        at = begin_family(p, AF_UNIX);
        load_socket_type(p);
        allow_protocol(p, SOCK_STREAM, AF_UNIX);
        allow_protocol(p, SOCK_DGRAM, AF_UNIX);
        bpf_return(p, RET_ERRNO(EPERM));
        end_family(p, at);
        check_socket_inet(p, AF_INET, lets_pings ? IPPROTO_ICMP : IPPROTO_UDP);
        check_socket_inet(p, AF_INET6, lets_pings ? IPPROTO_ICMPV6 : IPPROTO_UDP);
        at = begin_family(p, AF_NETLINK);
        load_socket_type(p);
        allow_protocol(p, SOCK_RAW, NETLINK_ROUTE);
        allow_protocol(p, SOCK_DGRAM, NETLINK_ROUTE);
        bpf_return(p, RET_ERRNO(EPERM));
        end_family(p, at);
        bpf_return(p, RET_ERRNO(EAFNOSUPPORT));
}

static void check_socket(BpfProgram *p)
{
        put_check_socket(p, /* lets_pings= */ false);
}

static void check_socket_or_pings(BpfProgram *p)
{
        put_check_socket(p, /* lets_pings= */ true);
}

static void check_socketpair(BpfProgram *p)
{
        bpf_load_low(p, 0);
        bpf_return_if_equal(p, AF_UNIX, SECCOMP_RET_ALLOW);
        bpf_return(p, RET_ERRNO(EAFNOSUPPORT));
}

/* Loaded: a level. Refuses the named options of it. */
static void refuse_options(BpfProgram *p, uint32_t level, const uint32_t *options, size_t n)
{
        size_t at = begin_family(p, level);

        bpf_load_low(p, 2);
        for (size_t i = 0; i < n; i++)
                bpf_return_if_equal(p, options[i], RET_ERRNO(EPERM));
        bpf_return(p, SECCOMP_RET_ALLOW);
        end_family(p, at);
}

/* Programs in the kernel, marks and devices that routing looks at, source routes, tables of netfilter. */
static void check_setsockopt(BpfProgram *p)
{
        static const uint32_t of_socket[] = {
                25, /* SO_BINDTODEVICE */
                26, /* SO_ATTACH_FILTER */
                32, /* SO_SNDBUFFORCE */
                33, /* SO_RCVBUFFORCE */
                36, /* SO_MARK */
                50, /* SO_ATTACH_BPF */
                51, /* SO_ATTACH_REUSEPORT_CBPF */
                52, /* SO_ATTACH_REUSEPORT_EBPF */
                62, /* SO_BINDTOIFINDEX */
        };
        /* IP_OPTIONS, IP_TRANSPARENT, then iptables, arptables and ebtables. */
        static const uint32_t of_ip[] = { 4, 19, 64, 65, 66, 67, 96, 97, 98, 99, 128, 129, 130, 131 };
        /* Extension headers, then ip6tables, IPV6_TRANSPARENT. */
        static const uint32_t of_ipv6[] = { 54, 57, 59, 64, 65, 75 };
        /* TCP_REPAIR and what belongs to it, TCP_ULP. */
        static const uint32_t of_tcp[] = { 19, 20, 21, 22, 31 };

        bpf_load_low(p, 1);
        refuse_options(p, SOL_SOCKET, of_socket, ELEMENTSOF(of_socket));
        refuse_options(p, IPPROTO_IP, of_ip, ELEMENTSOF(of_ip));
        refuse_options(p, IPPROTO_IPV6, of_ipv6, ELEMENTSOF(of_ipv6));
        refuse_options(p, IPPROTO_TCP, of_tcp, ELEMENTSOF(of_tcp));
        bpf_return_if_equal(p, 282, RET_ERRNO(EPERM)); /* SOL_TLS */
        bpf_return_if_equal(p, 283, RET_ERRNO(EPERM)); /* SOL_XDP */
        bpf_return(p, SECCOMP_RET_ALLOW);
}

static void check_seccomp(BpfProgram *p)
{
        bpf_load_low(p, 1);
        bpf_return_if_bits(p, NEW_LISTENER, RET_ERRNO(EPERM));
        bpf_return(p, SECCOMP_RET_ALLOW);
}

/* Loaded: a mode. */
static void check_mode(BpfProgram *p)
{
        bpf_return_if_bits(p, SET_ID_BITS, RET_ERRNO(EPERM));
        bpf_return(p, SECCOMP_RET_ALLOW);
}

static void check_mode_1(BpfProgram *p)
{
        bpf_load_low(p, 1);
        check_mode(p);
}

static void check_mode_2(BpfProgram *p)
{
        bpf_load_low(p, 2);
        check_mode(p);
}

/* The mode counts only where a file is made: else the register may hold anything. */
static void check_open_at(BpfProgram *p, unsigned flags)
{
        bpf_load_low(p, flags);
        (void) bpf_put(p, BPF_JMP | BPF_JSET | BPF_K, 1, 0, O_CREAT | (O_TMPFILE & ~O_DIRECTORY));
        bpf_return(p, SECCOMP_RET_ALLOW);
        bpf_load_low(p, flags + 1);
        check_mode(p);
}

static void check_open(BpfProgram *p)
{
        check_open_at(p, 1);
}

static void check_openat(BpfProgram *p)
{
        check_open_at(p, 2);
}

/* Devices, and whiteouts (a device 0:0), are nobody's to make. */
static void check_node(BpfProgram *p, unsigned mode)
{
        bpf_load_low(p, mode);
        bpf_return_if_bits(p, SET_ID_BITS, RET_ERRNO(EPERM));
        (void) bpf_put(p, BPF_ALU | BPF_AND | BPF_K, 0, 0, S_IFMT);
        bpf_return_if_equal(p, S_IFCHR, RET_ERRNO(EPERM));
        bpf_return_if_equal(p, S_IFBLK, RET_ERRNO(EPERM));
        bpf_return(p, SECCOMP_RET_ALLOW);
}

static void check_mknod(BpfProgram *p)
{
        check_node(p, 1);
}

static void check_mknodat(BpfProgram *p)
{
        check_node(p, 2);
}

static const struct {
        const char *name;
        CheckFunction check;
} checks[] = {
        { "clone", check_clone },
        { "ioctl", check_ioctl },
        { "personality", check_personality },
        { "prctl", check_prctl },
        { "prlimit64", check_prlimit },
        { "socket", check_socket },
        { "socketpair", check_socketpair },
        { "setsockopt", check_setsockopt },
        { "seccomp", check_seccomp },
        { "chmod", check_mode_1 },
        { "fchmod", check_mode_1 },
        { "fchmodat", check_mode_2 },
        { "creat", check_mode_1 },
        { "open", check_open },
        { "openat", check_openat },
        { "mknod", check_mknod },
        { "mknodat", check_mknodat },
};

/* ---- the table and the tree ---- */

/* -1 where this architecture has no such call. */
static int number_of(const char *name)
{
        int n = seccomp_syscall_resolve_name(name);

        return n >= 0 && n < NUMBER_MAX ? n : -1;
}

static void set_action(Entry *table, const char *const *names, size_t n, uint32_t action)
{
        for (size_t i = 0; i < n; i++) {
                int number = number_of(names[i]);

                if (number >= 0)
                        table[number].action = action;
        }
}

static void table_fill(Entry *table, bool lets_pings)
{
        int of_socket = number_of("socket");

        for (size_t i = 0; i < NUMBER_MAX; i++)
                table[i] = (Entry){ .action = RET_ERRNO(ENOSYS) };
        set_action(table, filter_allowed, ELEMENTSOF(filter_allowed), SECCOMP_RET_ALLOW);
        set_action(table, filter_refused, ELEMENTSOF(filter_refused), RET_ERRNO(EPERM));
        for (size_t i = 0; i < ELEMENTSOF(checks); i++) {
                int number = number_of(checks[i].name);

                if (number >= 0)
                        table[number].check = checks[i].check;
        }
        if (lets_pings && of_socket >= 0)
                table[of_socket].check = check_socket_or_pings;
}

static bool entry_equal(const Entry *a, const Entry *b)
{
        return a->check == b->check && (a->check || a->action == b->action);
}

static size_t table_to_runs(const Entry *table, Run *runs)
{
        size_t n = 0;

        for (uint32_t i = 0; i < NUMBER_MAX; i++) {
                if (i > 0 && entry_equal(&table[i], &table[i - 1]))
                        continue;
                if (n >= RUNS_MAX)
                        return 0;
                runs[n++] = (Run){ .begin = i, .entry = table[i] };
        }
        return n;
}

/* A binary search over the runs; depth is the logarithm of their number. */
static void put_tree(BpfProgram *p, const Run *runs, size_t n)
{
        size_t middle = n / 2, at, jump;

        if (n == 1) {
                if (runs[0].entry.check)
                        runs[0].entry.check(p);
                else
                        bpf_return(p, runs[0].entry.action);
                return;
        }
        /* Conditional jumps reach 255 instructions: the far side goes by an unconditional one. */
        at = bpf_put(p, BPF_JMP | BPF_JGE | BPF_K, 0, 1, runs[middle].begin);
        jump = bpf_put(p, BPF_JMP | BPF_JA, 0, 0, 0);
        put_tree(p, runs, middle);
        if (p->is_full)
                return;
        if (p->n - at - 1 <= UINT8_MAX)
                p->code[at].jt = (uint8_t) (p->n - at - 1);
        p->code[jump].k = (uint32_t) (p->n - jump - 1);
        put_tree(p, runs + middle, n - middle);
}

int filter_session_new(bool lets_pings, int *ret_fd)
{
        _cleanup_free_ BpfProgram *p = NULL;
        _cleanup_free_ Entry *table = NULL;
        _cleanup_free_ Run *runs = NULL;
        size_t n;

        p = calloc(1, sizeof(*p));
        table = calloc(NUMBER_MAX, sizeof(*table));
        runs = calloc(RUNS_MAX, sizeof(*runs));
        if (!p || !table || !runs)
                return -ENOMEM;
        table_fill(table, lets_pings);
        n = table_to_runs(table, runs);
        if (n == 0)
                return -E2BIG;
        bpf_check_architecture(p);
        put_tree(p, runs, n);
        return bpf_program_seal(p, "sandboxd-filter", ret_fd);
}

int filter_command_new(int *ret_fd)
{
        _cleanup_free_ BpfProgram *p = NULL;
        int number = number_of("clone3");

        if (number < 0)
                return -ENOSYS;
        p = calloc(1, sizeof(*p));
        if (!p)
                return -ENOMEM;
        bpf_check_architecture(p);
        bpf_return_if_equal(p, (uint32_t) number, RET_ERRNO(ENOSYS));
        bpf_return(p, SECCOMP_RET_ALLOW);
        return bpf_program_seal(p, "sandboxd-filter-command", ret_fd);
}
