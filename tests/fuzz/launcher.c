/*
 * Hostile workers and inits against the launcher: its own handlers run, the kernel below them is made up
 * (processes.c). Input: steps, a byte each with what they take. What workers hear is checked on their ends
 * of the channels: one user's worker makes and hears of that user's sessions only, no session is of uid 0,
 * and whoever breaks the table is dead by the end of the turn.
 */

#include "daemon/launcher/launcher.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/launcher/blank.h"
#include "daemon/launcher/inside.h"
#include "daemon/launcher/reload.h"
#include "daemon/launcher/service.h"
#include "daemon/launcher/session.h"
#include "daemon/launcher/user.h"
#include "daemon/launcher/worker.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"
#include "proto/wire/imsg.h"
#include "tests/fuzz/channel.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/processes.h"
#include "tests/fuzz/turns.h"

#define STEPS_MAX       256U
#define IDS_MAX         64U
#define CONNECTIONS_MAX 4U
#define SESSIONS_MAX    3U
#define CLIENTS_MAX     32U
#define FIRES_MAX       64U
#define ROOT_UID        1879048192U
#define MESSAGES_MAX    7U
#define PACKET_SIZE     (64U * 1024U)

typedef struct Header {
        uint32_t type;
        uint32_t size;
        uint64_t number;
} Header;

static struct {
        Id id;
        uint32_t uid;
} known[IDS_MAX];
static unsigned n_known;
static int client_fds[CLIENTS_MAX];
static unsigned n_clients;
static int sealed_fd = -EBADF;
static char state_dir[] = "/tmp/sandboxd-fuzz-XXXXXX";

static int remove_one(const char *path, _unused_ const struct stat *st, _unused_ int type,
                      _unused_ struct FTW *walk)
{
        return remove(path);
}

static void remove_state(void)
{
        (void) nftw(state_dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(_unused_ int *argc, _unused_ char ***argv)
{
        char path[64];

        log_open("fuzz");
        sb_assert(mkdtemp(state_dir) && atexit(remove_state) == 0);
        sb_assert(str_printf(path, sizeof(path), "%s/api", state_dir) >= 0 && mkdir(path, 0700) == 0);
        sb_assert(fd_memfd_sealed("fuzz", "x", 1, &sealed_fd) >= 0);
        return 0;
}

/* ---- what the launcher says ---- */

static const uint32_t *owner_of(const Id *id)
{
        for (unsigned i = 0; i < n_known; i++) {
                if (memcmp(&known[i].id, id, sizeof(*id)) == 0)
                        return &known[i].uid;
        }
        return NULL;
}

static void learn(const Id *id, uint32_t uid)
{
        const uint32_t *owner = owner_of(id);

        sb_assert(!owner || *owner == uid);
        if (owner || n_known == IDS_MAX)
                return;
        known[n_known].id = *id;
        known[n_known++].uid = uid;
}

static void check_open(const PrivSessionOpen *m)
{
        char uid[16];

        sb_assert(str_printf(uid, sizeof(uid), "%u", m->uid) >= 0);
        /* Written by send_message() into whatever this user's worker asks for. */
        sb_assert(strcmp(m->claims.agent_session, uid) == 0);
        learn(&m->session, m->uid);
}

static void check_message(const FakeProcess *p, uint32_t type, const void *body, size_t n_fds)
{
        const PrivInitStart *start = body;
        const PrivSessionCreated *created = body;
        const PrivSessionEnd *end = body;
        const PrivReport *report = body;

        switch (type) {
        case PRIV_AUDIT_SESSION_OPEN:
                check_open(body);
                break;
        case PRIV_AUDIT_REPORT:
                sb_assert(PRIV_STRING_OK(report->action) && PRIV_STRING_OK(report->detail));
                break;
        case PRIV_API_START:
                sb_assert(((const PrivApiStart *) body)->identity.uid == p->uid);
                break;
        case PRIV_API_CLIENT:
                sb_assert(((const PrivClient *) body)->uid == p->uid);
                break;
        case PRIV_API_ADOPT:
        case PRIV_SESSION_CREATED:
                sb_assert(!owner_of(&created->session) || *owner_of(&created->session) == p->uid);
                sb_assert(created->error <= 0 && (created->error == 0 || n_fds == 0));
                break;
        case PRIV_SESSION_ENDED:
                sb_assert(!owner_of(&end->session) || *owner_of(&end->session) == p->uid);
                break;
        case PRIV_INIT_START:
                sb_assert(start->uid != 0 && start->gid != 0 && start->leave_out == 0);
                sb_assert(start->caller_uid == 0 ? start->uid == ROOT_UID : start->uid == start->caller_uid);
                break;
        default:
                break;
        }
}

/* Reads one message as the process would. */
static bool hear(FakeProcess *p)
{
        static _Alignas(16) char packet[PACKET_SIZE];
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * IMSG_FDS_MAX)];
        } control;
        struct iovec iov = { .iov_base = packet, .iov_len = sizeof(packet) };
        struct msghdr m = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
        };
        ssize_t n = p->is_alive ? recvmsg(p->channel_fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) : -1;
        const PrivRule *rule;
        size_t n_fds = 0;
        Header h;

        if (n <= 0)
                return false;
        sb_assert((size_t) n >= sizeof(h) && !(m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)));
        memcpy(&h, packet, sizeof(h));
        rule = priv_rule(h.type);
        sb_assert(rule && rule->sender == ROLE_LAUNCHER);
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
                int fds[IMSG_FDS_MAX];

                n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                memcpy(fds, CMSG_DATA(c), n_fds * sizeof(int));
                fd_close_many(fds, n_fds);
        }
        sb_assert(n_fds >= rule->fds_min && n_fds <= rule->fds_max);
        check_message(p, h.type, packet + sizeof(h), n_fds);
        return true;
}

static void hear_all(void)
{
        for (unsigned i = 0; i < fake_n_processes; i++) {
                while (hear(&fake_processes[i]))
                        ;
        }
}

/* ---- what workers say ---- */

static const PrivMessage messages[][MESSAGES_MAX] = {
        [PROGRAM_API] = { PRIV_API_READY, PRIV_SESSION_CREATE, PRIV_SESSION_TERMINATE, PRIV_SESSION_REFUSE,
                          PRIV_API_CLIENT_CLOSED, PRIV_SESSION_FREEZE, PRIV_SESSION_KILL_COMMAND },
        [PROGRAM_AUDIT] = { PRIV_AUDIT_READY, PRIV_AUDIT_SESSION_OPENED, PRIV_AUDIT_SESSION_OPENED,
                            PRIV_AUDIT_SESSION_OPENED, PRIV_RECORDED, PRIV_AUDIT_LOADED,
                            PRIV_AUDIT_EGRESS_OVER },
        [PROGRAM_DIALER] = { PRIV_DIALER_READY, PRIV_DIALER_READY, PRIV_DIAL_CLOSED, PRIV_DIAL_REFUSED,
                             PRIV_CONNECTED, PRIV_DIALER_EGRESS_OVER },
        [PROGRAM_EGRESS] = { PRIV_EGRESS_READY, PRIV_EGRESS_READY, PRIV_DECIDE, PRIV_CONNECTION_DONE,
                             PRIV_SESSION_CREATE },
        [PROGRAM_WATCH] = { PRIV_WATCH_READY, PRIV_WATCH_READY, PRIV_FILE_DENIED, PRIV_WATCH_AUDIT_LOST,
                            PRIV_WATCH_PONG },
        [PROGRAM_LOOKUP] = { PRIV_API_READY },
        [PROGRAM_INIT] = { PRIV_INIT_RESULT, PRIV_INIT_RESULT, PRIV_EXEC_STARTED, PRIV_EXEC_EXITED,
                           PRIV_INIT_START },
};

static PrivMessage choose(const FakeProcess *p, uint8_t choice)
{
        PrivMessage found = messages[p->program][choice % MESSAGES_MAX];

        return priv_rule(found) ? found : messages[p->program][1];
}

enum SendFlags {
        SEND_ANY_TYPE = 1 << 0,  /* a byte of the input says which */
        SEND_BAD_SIZE = 1 << 1,  /* a byte more or less than its rule has */
        SEND_BAD_COUNT = 1 << 2, /* header out of order */
        SEND_KNOWN_ID = 1 << 3,  /* the body starts with the id of a session that was made */
        SEND_OTHER_FDS = 1 << 4, /* not the sealed ones that its rule asks for */
};

static bool send_fds(int fd, const void *data, size_t size, size_t n_fds)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * 2)];
        } control = { 0 };
        struct iovec iov = { .iov_base = (void *) (uintptr_t) data, .iov_len = size };
        struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control };
        const int fds[2] = { sealed_fd, sealed_fd };

        n_fds = MIN_OF(n_fds, (size_t) 2);
        control.header = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int) * n_fds),
                                           .cmsg_level = SOL_SOCKET,
                                           .cmsg_type = SCM_RIGHTS };
        memcpy(CMSG_DATA(&control.header), fds, sizeof(int) * n_fds);
        m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        return sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t) size;
}

/* What a worker of this user says about itself, so that it is known again. */
static void sign(const FakeProcess *p, uint32_t type, char *body, uint8_t connection)
{
        PrivSessionCreate create;

        if (type != PRIV_SESSION_CREATE)
                return;
        memcpy(&create, body, sizeof(create));
        if (connection > 0)
                create.connection = connection;
        (void) !str_printf(create.claims.agent_session, sizeof(create.claims.agent_session), "%u", p->uid);
        memcpy(body, &create, sizeof(create));
}

static uint32_t put_body(char *body, const PrivRule *rule, uint8_t flags, const uint8_t **data, size_t *size)
{
        uint32_t n = rule ? MIN_OF(rule->body_min, (uint32_t) (PACKET_SIZE / 2)) : 8;
        size_t at = fuzz_take_byte(data, size), count = fuzz_take_byte(data, size) % 64U;

        at = n > 0 ? at * 16 % n : 0;
        count = MIN_OF(count, MIN_OF(*size, n - at));
        memcpy(body + at, *data, count);
        *data += count;
        *size -= count;
        if (flags & SEND_KNOWN_ID && n_known > 0 && n >= sizeof(Id))
                memcpy(body, &known[fuzz_take_byte(data, size) % n_known].id, sizeof(Id));
        return n;
}

/* True: the launcher must have ended this process by now. */
static bool send_message(FakeProcess *p, const uint8_t **data, size_t *size)
{
        static char packet[PACKET_SIZE];
        uint8_t flags = fuzz_take_byte(data, size), choice = fuzz_take_byte(data, size);
        Header h = { .type = flags & SEND_ANY_TYPE ? choice : choose(p, choice) };
        const PrivRule *rule = priv_rule(h.type);
        bool is_broken = !rule || rule->sender == ROLE_LAUNCHER || flags & (SEND_BAD_SIZE | SEND_BAD_COUNT);

        memset(packet, 0, sizeof(packet));
        h.size = put_body(packet + sizeof(h), rule, flags, data, size);
        if (rule)
                sign(p, h.type, packet + sizeof(h), choice / MESSAGES_MAX);
        h.size += flags & SEND_BAD_SIZE ? (choice & 1 || h.size == 0 ? 1U : UINT32_MAX) : 0U;
        h.number = p->received + (flags & SEND_BAD_COUNT ? 1U + choice : 0U);
        memcpy(packet, &h, sizeof(h));
        if (flags & SEND_OTHER_FDS
                            ? !channel_send(p->channel_fd, packet, sizeof(h) + h.size, flags >> 5)
                            : !send_fds(p->channel_fd, packet, sizeof(h) + h.size, rule ? rule->fds_min : 0))
                return false;
        p->received++;
        return is_broken && !(rule && rule->body_max > rule->body_min);
}

/* ---- steps ---- */

static FakeProcess *pick(uint8_t n)
{
        unsigned n_alive = 0;

        for (unsigned i = 0; i < fake_n_processes; i++)
                n_alive += fake_processes[i].is_alive;
        if (n_alive == 0)
                return NULL;
        n = (uint8_t) (n % n_alive);
        for (unsigned i = 0; i < fake_n_processes; i++) {
                if (fake_processes[i].is_alive && n-- == 0)
                        return &fake_processes[i];
        }
        return NULL;
}

static void connect_client(Launcher *l, uint8_t choice)
{
        static const uint32_t uids[] = { 1000, 1001, 0 };
        Peer peer = { .pid = 7, .uid = uids[choice % 3], .n_groups = choice & 8 ? 1U : 0U };
        uint32_t over;
        int fds[2];
        User *u;

        if (n_clients == CLIENTS_MAX)
                return;
        peer.gid = peer.uid;
        peer.groups[0] = 50;
        peer.has_too_many_groups = choice & 16;
        sb_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
        client_fds[n_clients++] = fds[1];
        u = user_of_peer(l, peer.uid);
        if (u && quota_admit_connection(u, &over))
                user_add_connection(u, &peer, over, fds[0]);
        else
                fds[0] = fd_close(fds[0]);
}

static void answer_lookup(uint8_t choice)
{
        static const PrivIdentity none;
        PrivIdentity identity = none;

        identity.uid = fake_lookup_uid() + (choice == 1 ? 1 : 0);
        identity.n_groups = choice == 2 ? UINT32_MAX : 0;
        if (choice == 3)
                memset(identity.home, 'x', sizeof(identity.home));
        (void) fake_lookup_answer(choice == 4 ? NULL : &identity);
}

static void check_users(Launcher *l)
{
        size_t cursor = 0;

        for (User *u = map_next(&l->users, &cursor); u; u = map_next(&l->users, &cursor)) {
                sb_assert(u->n_sessions <= SESSIONS_MAX);
                sb_assert(u->n_connections <= CONNECTIONS_MAX + 16U);
        }
}

static void step(Launcher *l, const uint8_t **data, size_t *size)
{
        uint8_t what = fuzz_take_byte(data, size), choice = fuzz_take_byte(data, size);
        FakeProcess *p = pick(choice);
        bool must_die = false;

        switch (what % 8) {
        case 0:
                connect_client(l, choice);
                break;
        case 1:
        case 2:
                must_die = p && send_message(p, data, size);
                break;
        case 3:
                if (p)
                        fake_process_kill(p);
                break;
        case 4:
                turns_fire(l->loop, choice);
                break;
        case 5:
                answer_lookup(choice);
                break;
        case 6:
                fake_fail_in = choice;
                break;
        default:
                hear_all();
                return;
        }
        turns_all(l->loop);
        /* One that is not read for a while is ended when it is. */
        for (unsigned i = 0; i < FIRES_MAX && must_die && p->is_alive && !turns_are_over(l->loop); i++) {
                turns_fire(l->loop, i);
                turns_all(l->loop);
        }
        sb_assert(!must_die || !p->is_alive || turns_are_over(l->loop));
        check_users(l);
}

static void say_ready(FakeProcess *p)
{
        static char packet[PACKET_SIZE];
        uint32_t type = messages[p->program][0];
        Header h = { .type = type, .size = priv_rule(type)->body_min };

        memset(packet, 0, sizeof(packet));
        memcpy(packet, &h, sizeof(h));
        sb_assert(p->program != PROGRAM_INIT && channel_send(p->channel_fd, packet, sizeof(h) + h.size, 0));
        p->received++;
}

/* Workers of a daemon that serves; the pool of egress workers fills one by one. */
static void start(Launcher *l)
{
        unsigned n_ready = 0;

        for (unsigned i = 0; i < FAKE_PROCESSES_MAX && !l->is_serving; i++) {
                if (n_ready < fake_n_processes)
                        say_ready(&fake_processes[n_ready++]);
                else
                        turns_fire(l->loop, 0);
                turns_all(l->loop);
        }
        sb_assert(l->is_serving);
}

/* As the end of run() in main.c. True: the stop was orderly, and no session is left. */
static bool end(Launcher *l)
{
        bool is_orderly = !turns_are_over(l->loop);

        fake_fail_in = 0;
        if (is_orderly)
                launcher_stop(l, 0);
        turns_all(l->loop);
        /* Those whose group did not become empty at once look again. */
        for (unsigned i = 0; i < FIRES_MAX && l->sessions.n > 0 && !turns_are_over(l->loop); i++) {
                turns_fire(l->loop, i);
                turns_all(l->loop);
        }
        is_orderly = is_orderly && l->sessions.n == 0;
        hear_all();
        sessions_free(l);
        users_free(l);
        blanks_stop(l);
        worker_retire(l->audit);
        worker_retire(l->dialer);
        worker_retire(l->watch);
        for (size_t i = 0; i < ELEMENTSOF(l->pool); i++)
                worker_retire(l->pool[i]);
        workers_end(l);
        inside_free_all(l);
        reload_free(l);
        while (fake_lookup_answer(NULL))
                ;
        l->hosts_fd = fd_close(l->hosts_fd);
        l->profiles_fd = fd_close(l->profiles_fd);
        l->stop_timer = loop_timer_free(l->stop_timer);
        l->pool_timer = loop_timer_free(l->pool_timer);
        l->watch_timer_again = loop_timer_free(l->watch_timer_again);
        l->watch_ping_timer = loop_timer_free(l->watch_ping_timer);
        l->loop = loop_free(l->loop);
        return is_orderly;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static const Config config = { .config_dir = "/nonexistent",
                                       .policy_dir = "/nonexistent",
                                       .state_dir = state_dir };
        int next = channel_next_fd();
        Kernel kernel;
        Launcher l = { .config = &config,
                       .kernel = &kernel,
                       .ids = { .api_uid = getuid(), .api_gid = getgid(), .auditors_gid = 50 },
                       .settings = { .connections_max = 2 * CONNECTIONS_MAX,
                                     .connections_per_user_max = CONNECTIONS_MAX,
                                     .connects_per_second = 1000,
                                     .sessions_max = 2 * SESSIONS_MAX,
                                     .sessions_per_user_max = SESSIONS_MAX,
                                     .starts_per_second = 1000,
                                     .users_max = 2,
                                     .rows_per_second = 8,
                                     .rows_share_percent = 50,
                                     .root_session_uid = ROOT_UID },
                       .hosts_fd = -EBADF,
                       .profiles_fd = fcntl(sealed_fd, F_DUPFD_CLOEXEC, 0),
                       .generation = 1,
                       .listen_fd = -EBADF,
                       .reserve_fd = -EBADF };

        list_init(&l.workers);
        list_init(&l.inside);
        list_init(&l.endings);
        fake_kernel_init(&kernel);
        sb_assert(loop_new(&l.loop) == 0 && reload_new(&l) == 0 && service_start(&l) == 0);
        start(&l);
        for (unsigned i = 0; i < STEPS_MAX && size > 0 && !turns_are_over(l.loop); i++)
                step(&l, &data, &size);
        fake_processes_done(end(&l));
        fake_kernel_done(&kernel);
        fd_close_many(client_fds, n_clients);
        n_clients = n_known = 0;
        sb_assert(channel_next_fd() == next);
        return 0;
}
