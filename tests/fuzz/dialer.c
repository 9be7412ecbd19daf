/*
 * A whole dialer, from main() on, with turns instead of a loop: the target is its launcher, its audit, the
 * egress workers of two sessions and the name server, any of which may be hostile. Input: steps, a byte each
 * with what they take. Checked: it connects to no address that the session's policy does not allow, whatever
 * names lead to, and tells of none; a descriptor goes only to the session that it was dialled for; each
 * order to dial gets one report, and no more.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/isolate/worker.h"
#include "daemon/policy/policy.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/wire/imsg.h"
#include "tests/fuzz/channel.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/turns.h"
#include "tests/fuzz/upstream.h"

#define LAUNCHER_FD 3
#define SESSIONS    2U
#define DIALS_MAX   64U
#define STEPS_MAX   128U
#define ALLOWED_NET UINT32_C(0x5db8d800) /* 93.184.216.0/24 */

int LLVMFuzzerInitialize(int *argc, char ***argv);
/* daemon/dialer/main.c's main(), renamed by the compiler's arguments. */
int sandboxd_dialer_main(int argc, char *argv[]);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t size);

typedef struct End {
        ImsgChannel channel;
        bool is_open;
} End;

static const char policy_text[] =
                "\", \"rules\": ["
                "{ \"action\": \"allow\", \"host\": \"allowed.test\" },"
                "{ \"action\": \"allow\", \"host\": \"private.test\" },"
                "{ \"action\": \"allow\", \"host\": \"*.wild.test\", \"ports\": [443] },"
                "{ \"action\": \"allow\", \"host\": \"up.test\", \"dns_types\": [\"TXT\", \"SRV\", \"MX\", \"CAA\"] },"
                "{ \"action\": \"allow\", \"host\": \"*.up.test\", \"ports\": [443] },"
                "{ \"action\": \"allow\", \"cidr\": \"93.184.216.0/25\", \"expires\": \"2099-01-01T00:00:00Z\" } ] } }";
static const char hosts_text[] =
                "93.184.216.34 allowed.test\n93.184.216.35 a.wild.test\n93.184.216.36 evil.test\n"
                "10.0.0.1 private.test\n127.0.0.1 b.wild.test\n";
static const char *const names[] = {
        "allowed.test", "private.test", "a.wild.test",  "b.wild.test",
        "evil.test",    "nowhere.test", "Allowed.test", "",
        "up.test",      "a.up.test",    "b.up.test",    "up.test",
        "up.test",      "a.up.test",    "nowhere.test", "host.sandbox.internal"
};
static const uint32_t ports[] = { 80, 443, 22, 0, 70000 };
static End launcher, audit, egress[SESSIONS];
static Id sessions[SESSIONS];
static int policy_fds[SESSIONS] = { -EBADF, -EBADF }, hosts_fd = -EBADF;
static unsigned dialled[DIALS_MAX + 1]; /* 1 + session; 0: not, or reported */
static uint64_t n_dials;
static const uint8_t *input;
static size_t input_size;

int worker_confine(_unused_ const WorkerSpec *spec)
{
        return 0;
}

/* Said here once more, and coarser: what the name server made up may be anything of the internet's. */
static bool is_public4(const uint8_t *a)
{
        return a[0] != 0 && a[0] != 10 && a[0] != 127 && a[0] < 224 && !(a[0] == 169 && a[1] == 254) &&
               !(a[0] == 172 && a[1] >= 16 && a[1] < 32) && !(a[0] == 192 && a[1] == 168) &&
               !(a[0] == 100 && a[1] >= 64 && a[1] < 128) && !(a[0] == 198 && (a[1] == 18 || a[1] == 19));
}

/* 2000::/3 without what holds IPv4 or examples. */
static bool is_public6(const uint8_t *a)
{
        return a[0] >> 5 == 1 && !(a[0] == 0x20 && a[1] == 0x02) &&
               !(a[0] == 0x20 && a[1] == 0x01 && a[2] < 2) &&
               !(a[0] == 0x20 && a[1] == 0x01 && a[2] == 0x0d && a[3] == 0xb8);
}

static bool may_connect(const struct sockaddr *address, socklen_t size)
{
        struct sockaddr_in6 v6;
        struct sockaddr_in v4;

        if (address->sa_family == AF_INET6) {
                sb_assert(size == sizeof(v6));
                memcpy(&v6, address, sizeof(v6));
                return upstream_has_spoken() && is_public6(v6.sin6_addr.s6_addr) &&
                       (ntohs(v6.sin6_port) == 80 || ntohs(v6.sin6_port) == 443);
        }
        sb_assert(address->sa_family == AF_INET && size == sizeof(v4));
        memcpy(&v4, address, sizeof(v4));
        if (ntohs(v4.sin_port) != 80 && ntohs(v4.sin_port) != 443)
                return false;
        return (ntohl(v4.sin_addr.s_addr) & UINT32_C(0xffffff00)) == ALLOWED_NET ||
               (upstream_has_spoken() && is_public4((const uint8_t *) &v4.sin_addr));
}

/* Nobody is there: a socket that is not connected looks to the dialer like one whose peer has gone. */
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t size)
{
        static uint8_t n_calls[1024];
        int type = 0;
        socklen_t n = sizeof(type);

        /* Which families there are ways for is asked with datagrams. */
        sb_assert(getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) == 0);
        if (type == SOCK_DGRAM)
                return 0;
        sb_assert(may_connect(address, size) && fd < (int) sizeof(n_calls));
        /* Begun, not yet, done. */
        n_calls[fd] = (uint8_t) ((n_calls[fd] + 1) % 3);
        errno = n_calls[fd] == 1 ? EINPROGRESS : EALREADY;
        return n_calls[fd] == 0 ? 0 : -1;
}

/* One session is told real addresses. */
static int make_policy(const char *dns)
{
        _cleanup_(policy_freep) Policy *p = NULL;
        PolicyDiagnostics diagnostics;
        char text[2048];
        int fd, n;

        n = snprintf(text, sizeof(text), "{ \"version\": 1, \"network\": { \"dns\": \"%s%s", dns,
                     policy_text);
        sb_assert(n > 0 && (size_t) n < sizeof(text));
        policy_diagnostics_init(&diagnostics);
        sb_assert(policy_parse(POLICY_PROFILE, "fuzz", text, (size_t) n, &diagnostics, &p) >= 0);
        policy_diagnostics_done(&diagnostics);
        sb_assert(policy_compile(p, NULL, NULL, 1, &fd) >= 0);
        return fd;
}

int LLVMFuzzerInitialize(_unused_ int *argc, _unused_ char ***argv)
{
        /* So that it is nobody else's. */
        sb_assert(fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, LAUNCHER_FD) == LAUNCHER_FD);
        log_open("fuzz");
        log_set_level(LOG_LEVEL_ERROR);
        policy_fds[0] = make_policy("synthetic");
        policy_fds[1] = make_policy("real");
        sb_assert(fd_memfd_sealed("hosts", hosts_text, sizeof(hosts_text) - 1, &hosts_fd) >= 0);
        for (unsigned i = 0; i < SESSIONS; i++)
                memset(&sessions[i], (int) i + 1, sizeof(sessions[i]));
        return 0;
}

/* ---- what it says ---- */

static void end_close(End *e)
{
        if (e->is_open)
                imsg_channel_done(&e->channel);
        e->is_open = false;
}

static void on_report(const Id *session, uint64_t sequence)
{
        sb_assert(sequence > 0 && sequence <= n_dials && dialled[sequence] > 0);
        sb_assert(memcmp(session, &sessions[dialled[sequence] - 1], sizeof(*session)) == 0);
        dialled[sequence] = 0;
}

/* Of the session that is told real addresses, for a question about them. */
static void check_addresses(const uint8_t *at, size_t left)
{
        while (left > 0) {
                size_t n;

                sb_assert(left > 2);
                n = (size_t) at[0] << 8 | at[1];
                sb_assert((n == 4 || n == 16) && n <= left - 2);
                sb_assert(n == 4 ? is_public4(at + 2) : is_public6(at + 2));
                at += 2 + n;
                left -= 2 + n;
        }
}

static void on_resolved(const End *e, const Imsg *m)
{
        const PrivResolved *resolved = m->body;
        const uint8_t *records = (const uint8_t *) m->body + sizeof(*resolved);

        sb_assert(m->size >= sizeof(*resolved) && m->size <= PRIV_RESOLVED_MAX);
        sb_assert(!resolved->is_real || e == &egress[1]);
        if (resolved->is_real)
                check_addresses(records, m->size - sizeof(*resolved));
}

static void check_owner(const End *e, uint64_t sequence)
{
        sb_assert(sequence <= n_dials &&
                  (dialled[sequence] == 0 || dialled[sequence] == 1U + (unsigned) (e - egress)));
}

static void on_message(const End *e, const Imsg *m)
{
        const PrivConnected *connected = m->body;
        const PrivDialClosed *closed = m->body;
        const PrivDialRefused *refused = m->body;

        if (m->type == PRIV_CONNECTED)
                check_owner(e, connected->sequence);
        else if (m->type == PRIV_CONNECTION_BACK)
                check_owner(e, ((const PrivConnectionReturn *) m->body)->sequence);
        else if (m->type == PRIV_DIAL_CLOSED)
                on_report(&closed->session, closed->sequence);
        else if (m->type == PRIV_DIAL_REFUSED)
                on_report(&refused->session, refused->sequence);
        else if (m->type == PRIV_RESOLVED)
                on_resolved(e, m);
}

static void hear(End *e)
{
        while (e->is_open) {
                _cleanup_imsg_ Imsg m = { .n_fds = 0 };
                int r = imsg_receive(&e->channel, &m);

                if (r == 0)
                        return;
                sb_assert(r == 1 || r == -EPIPE);
                if (r == 1 && m.type == PRIV_DIALER_READY)
                        e->channel.phase = PHASE_RUN;
                else if (r == 1)
                        on_message(e, &m);
                else
                        end_close(e);
        }
}

static void turn(Loop *l)
{
        do {
                turns_all(l);
                hear(&launcher);
                hear(&audit);
                for (unsigned i = 0; i < SESSIONS; i++)
                        hear(&egress[i]);
        } while (!turns_are_over(l) && turns_once(l));
}

/* ---- what it hears ---- */

static uint8_t take(void)
{
        return fuzz_take_byte(&input, &input_size);
}

static void say(End *e, PrivMessage type, const void *body, size_t size, int fd)
{
        if (e->is_open)
                (void) !imsg_send(&e->channel, type, body, size, &fd, fd >= 0 ? 1U : 0U);
}

static int end_open(End *e, PrivChannel channel, PrivRole role)
{
        int fds[2];

        end_close(e);
        sb_assert(imsg_pair(fds) >= 0 && imsg_channel_init(&e->channel, fds[0], channel, role) >= 0);
        e->is_open = true;
        e->channel.phase = PHASE_RUN;
        return fds[1];
}

static void attach_egress(unsigned i)
{
        PrivEgressRef ref = { .session = sessions[i], .number = take() };
        int fd = end_open(&egress[i], CHANNEL_DIALER_EGRESS, ROLE_EGRESS);

        say(&launcher, PRIV_DIALER_EGRESS_ATTACH, &ref, sizeof(ref), fd);
        (void) fd_close(fd);
}

static void attach_audit(void)
{
        int fd = end_open(&audit, CHANNEL_AUDIT_DIALER, ROLE_AUDIT);

        /* Whoever comes next knows nothing of what its forerunner ordered. */
        memset(dialled, 0, sizeof(dialled));
        say(&launcher, PRIV_DIALER_AUDIT_ATTACH, NULL, 0, fd);
        (void) fd_close(fd);
}

static void open_session(unsigned i)
{
        PrivSessionRef ref = { .session = sessions[i] };

        say(&launcher, PRIV_DIALER_SESSION_OPEN, &ref, sizeof(ref), policy_fds[i]);
}

static void close_session(unsigned i)
{
        PrivSessionRef ref = { .session = sessions[i] };

        say(&launcher, PRIV_DIALER_SESSION_CLOSE, &ref, sizeof(ref), -1);
}

static void order_dial(unsigned i)
{
        PrivDial d = { .session = sessions[i], .request = take(), .protocol = take() % 6U };
        const char *name = names[take() % ELEMENTSOF(names)];
        uint8_t more = take();

        if (n_dials == DIALS_MAX || !audit.is_open)
                return;
        d.sequence = ++n_dials;
        dialled[n_dials] = 1 + i;
        d.port = ports[more % ELEMENTSOF(ports)];
        memcpy(d.host, name, strlen(name));
        if (more & 0x40)
                memset(d.host, 'x', sizeof(d.host));
        if (name[0] == '\0' || more & 0x80) {
                d.address.family = more & 0x20 ? 6 : 4;
                d.address.bytes[0] = 93;
                d.address.bytes[1] = 184;
                d.address.bytes[2] = 216;
                d.address.bytes[3] = take();
        }
        say(&audit, PRIV_DIAL, &d, sizeof(d), -1);
}

static void order_lookup(unsigned i)
{
        PrivResolve order = { .session = sessions[i], .request = take() };
        uint8_t what = take(), type = what >> 4;
        const char *name = names[what % ELEMENTSOF(names)];

        /* The types are bits; all else is none. */
        order.type = type == 0 ? 0 : type <= 4 ? 1U << (type - 1) : type;
        memcpy(order.host, name, strlen(name));
        say(&audit, PRIV_RESOLVE, &order, sizeof(order), -1);
}

static void claim_done(unsigned i)
{
        PrivConnectionRef ref = { .sequence = take() };
        uint8_t how = take();
        PrivConnectionDone done = { .sequence = ref.sequence, .reason = how % 32U };

        PrivConnectionReturn wanted = { .sequence = ref.sequence };

        if ((how & 0xc0) == 0xc0)
                say(&egress[i], PRIV_CONNECTION_PARK, &ref, sizeof(ref), -1);
        else if (how & 0x80)
                say(&egress[i], PRIV_CONNECTION_WANTED, &wanted, sizeof(wanted), -1);
        else
                say(&egress[i], PRIV_CONNECTION_DONE, &done, sizeof(done), -1);
}

/* Bytes of the input as they are, behind a header that may be right. */
static void send_raw(End *e)
{
        char packet[512];
        uint32_t head[2] = { take(), take() };
        uint64_t number = e->is_open ? e->channel.sent : 0;
        size_t n_fds = take() % 3U, n = take();

        if (!e->is_open)
                return;
        memcpy(packet, head, sizeof(head));
        memcpy(packet + sizeof(head), &number, sizeof(number));
        n = MIN_OF(n, input_size);
        memcpy(packet + 16, input, n);
        input += n;
        input_size -= n;
        if (channel_send(e->channel.fd, packet, 16 + n, n_fds))
                e->channel.sent++;
}

static void step(Loop *l)
{
        uint8_t what = take();
        unsigned i = what >> 7;

        switch (what % 12) {
        case 0:
        case 1:
        case 2:
                order_dial(i);
                break;
        case 3:
                order_lookup(i);
                break;
        case 4:
        case 5:
                claim_done(i);
                break;
        case 6:
                send_raw(&egress[i]);
                break;
        case 7:
                turns_fire(l, take());
                break;
        case 8:
                attach_egress(i);
                break;
        case 9:
                close_session(i);
                break;
        case 10:
                open_session(i);
                break;
        default:
                what = take();
                if (what == 0)
                        attach_audit();
                else if (what & 1)
                        upstream_answer(&input, &input_size);
                break;
        }
}

static void drive(Loop *l)
{
        PrivResolver servers = { .n_servers = 1, .servers = { { .port = 9 } } };

        servers.servers[0].address.family = 4;
        servers.servers[0].address.bytes[0] = 127;
        servers.servers[0].address.bytes[3] = 1;
        turn(l);
        say(&launcher, PRIV_DIALER_RESOLVER, &servers, sizeof(servers), hosts_fd);
        attach_audit();
        for (unsigned i = 0; i < SESSIONS; i++) {
                open_session(i);
                attach_egress(i);
        }
        for (unsigned n = 0; n < STEPS_MAX && input_size > 0 && !turns_are_over(l); n++) {
                step(l);
                turn(l);
        }
        for (unsigned i = 0; i < SESSIONS; i++)
                close_session(i);
        turn(l);
        for (unsigned i = 1; i <= n_dials && audit.is_open && !turns_are_over(l); i++)
                sb_assert(dialled[i] == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        char name[] = "sandboxd-dialer";
        char *argv[] = { name, NULL };
        int fds[2];

        input = data;
        input_size = size;
        n_dials = 0;
        upstream_reset();
        memset(dialled, 0, sizeof(dialled));
        (void) close(LAUNCHER_FD); /* may not be open */
        sb_assert(imsg_pair(fds) >= 0);
        if (fds[0] == LAUNCHER_FD)
                fds[0] = fcntl(LAUNCHER_FD, F_DUPFD_CLOEXEC, LAUNCHER_FD + 1);
        sb_assert(dup2(fds[1], LAUNCHER_FD) == LAUNCHER_FD && fd_set_cloexec(LAUNCHER_FD, true) >= 0);
        if (fds[1] != LAUNCHER_FD)
                fds[1] = fd_close(fds[1]);
        sb_assert(imsg_channel_init(&launcher.channel, fds[0], CHANNEL_LAUNCHER_DIALER, ROLE_LAUNCHER) >= 0);
        launcher.is_open = true;
        turns_set_driver(drive);
        (void) sandboxd_dialer_main(1, argv);
        end_close(&launcher);
        end_close(&audit);
        for (unsigned i = 0; i < SESSIONS; i++)
                end_close(&egress[i]);
        return 0;
}
