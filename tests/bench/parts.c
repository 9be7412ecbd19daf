/*
 * Parts of the daemon beside what they cannot be faster than, in one run: lines of a name, its own
 * nanoseconds, those of the other, and how many allocations it made.
 *
 *   decision   one on 100,000 host rules | one look-up in a hash table of the same names
 *   network    all of a session's network | a namespace with lo up
 */

#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "daemon/isolate/netns.h"
#include "daemon/policy/compiled.h"
#include "daemon/policy/policy.h"
#include "proto/base/buf.h"
#include "proto/base/fd.h"
#include "proto/base/hash.h"
#include "proto/base/str.h"

#define HOSTS  100000
#define ROUNDS 31
#define NAMES  20000

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);

static unsigned n_allocations;
static char hosts[HOSTS][32], keys[HOSTS][32];
static Map table = MAP_INIT;

void *malloc(size_t size)
{
        n_allocations++;
        return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
        n_allocations++;
        return __libc_calloc(n, size);
}

/* What the processor did for us: others who want it, too, do not count. */
static uint64_t now(void)
{
        struct timespec t;

        (void) clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return (uint64_t) t.tv_sec * 1000000000U + (uint64_t) t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
        const uint64_t *x = a, *y = b;

        return (*x > *y) - (*x < *y);
}

static uint64_t median(uint64_t values[ROUNDS])
{
        qsort(values, ROUNDS, sizeof(values[0]), compare);
        return values[ROUNDS / 2];
}

static int compile_hosts(const PolicyBlock **ret)
{
        _cleanup_(buf_done) Buf text = BUF_INIT(32U << 20);
        _cleanup_(policy_freep) Policy *p = NULL;
        PolicyDiagnostics diagnostics;
        _cleanup_close_ int fd = -EBADF;
        int r = buf_put_string(&text, "{ \"version\": 1, \"network\": { \"rules\": [");

        for (int i = 0; r >= 0 && i < HOSTS; i++)
                r = buf_printf(&text, "%s{ \"action\": \"allow\", \"host\": \"%s\" }", i > 0 ? "," : "",
                               hosts[i]);
        if (r >= 0)
                r = buf_put_string(&text, "] } }");
        policy_diagnostics_init(&diagnostics);
        if (r >= 0)
                r = policy_parse(POLICY_PROFILE, "bench", buf_front(&text), buf_size(&text), &diagnostics,
                                 &p);
        policy_diagnostics_done(&diagnostics);
        if (r >= 0)
                r = policy_compile(p, NULL, NULL, 1, &fd);
        return r < 0 ? r : policy_block_open(fd, ret);
}

static uint64_t look_up(unsigned seed)
{
        uint64_t begin = now();

        for (unsigned i = 0; i < NAMES; i++) {
                const char *host = hosts[(seed + i * 7919U) % HOSTS];

                if (!map_get(&table, host, strlen(host)))
                        abort();
        }
        return (now() - begin) / NAMES;
}

static uint64_t decide(const PolicyBlock *b, unsigned seed)
{
        uint64_t begin = now();

        for (unsigned i = 0; i < NAMES; i++) {
                PolicyRequest q = { .host = hosts[(seed + i * 7919U) % HOSTS],
                                    .port = 443,
                                    .protocol = PROTOCOL_TLS };
                PolicyMatch m = { .verdict = VERDICT_DENY };

                policy_match_request(b, &q, &m);
                if (m.verdict != VERDICT_ALLOW)
                        abort();
        }
        return (now() - begin) / NAMES;
}

static int measure_decisions(void)
{
        uint64_t ours[ROUNDS], bare[ROUNDS];
        const PolicyBlock *b;
        unsigned before;
        int r = 0;

        for (int i = 0; i < HOSTS; i++)
                (void) snprintf(hosts[i], sizeof(hosts[i]), "h%d.example.test", i);
        /* Who asks has a name of its own. */
        memcpy(keys, hosts, sizeof(keys));
        for (int i = 0; r >= 0 && i < HOSTS; i++)
                r = map_put(&table, keys[i], strlen(keys[i]), keys[i]);
        if (r >= 0)
                r = compile_hosts(&b);
        if (r < 0)
                return r;
        before = n_allocations;
        for (unsigned i = 0; i < ROUNDS; i++) {
                bare[i] = look_up(i * 131U);
                ours[i] = decide(b, i * 137U);
        }
        printf("decision %llu %llu %u\n", (unsigned long long) median(ours),
               (unsigned long long) median(bare), n_allocations - before);
        (void) policy_block_close(b);
        return 0;
}

static uint64_t make_bare(int home_fd)
{
        struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING | IFF_LOOPBACK };
        uint64_t begin = now();
        int fd;

        if (unshare(CLONE_NEWNET) < 0)
                abort();
        fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (ioctl(fd, SIOCSIFFLAGS, &request) < 0 || close(fd) < 0 || setns(home_fd, CLONE_NEWNET) < 0)
                abort();
        return now() - begin;
}

static int measure_network(void)
{
        _cleanup_(steering_freep) Steering *s = NULL;
        _cleanup_close_ int home_fd = -EBADF;
        uint64_t ours[ROUNDS], bare[ROUNDS];
        int r = netns_open_home(&home_fd);

        if (r >= 0)
                r = steering_new(REDIRECT_TPROXY, /* has_log= */ true, &s);
        if (r >= 0)
                steering_set_pings(s, true);
        for (int i = 0; r >= 0 && i < ROUNDS; i++) {
                NetworkNamespace n = NETNS_INIT;
                uint64_t begin;

                bare[i] = make_bare(home_fd);
                begin = now();
                r = netns_new(home_fd, s, &n);
                ours[i] = now() - begin;
                netns_done(&n);
        }
        if (r >= 0)
                printf("network %llu %llu 0\n", (unsigned long long) median(ours),
                       (unsigned long long) median(bare));
        return r;
}

int main(void)
{
        int r = measure_decisions();

        if (r >= 0)
                r = measure_network();
        if (r < 0)
                (void) fprintf(stderr, "parts: %s\n", strerror(-r));
        return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
