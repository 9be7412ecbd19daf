/*
 * A whole api worker, from main() on, with turns instead of a loop: the target is its launcher, its audit
 * writer, its inits and its clients. Input: steps, a byte each with what they take; calls come as text.
 * What the worker says is checked: replies pass the gate, a plan and a policy that it made can be opened.
 */

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/init/plan.h"
#include "daemon/isolate/worker.h"
#include "daemon/policy/compiled.h"
#include "proto/base/bundle.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"
#include "proto/idl/privsep.h"
#include "proto/wire/conn.h"
#include "proto/wire/imsg.h"
#include "tests/fuzz/channel.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/messages.h"
#include "tests/fuzz/turns.h"

#define STEPS_MAX    128U
#define CLIENTS_MAX  6U
#define CHANNELS_MAX 8U
#define TOKENS_MAX   16U
#define LAUNCHER_FD  3
#define USER_ID      1000U

int LLVMFuzzerInitialize(int *argc, char ***argv);
/* daemon/api/main.c's main(), renamed by the compiler's arguments. */
int sandboxd_api_main(int argc, char *argv[]);

typedef struct End {
        ImsgChannel channel;
        bool is_open;
} End;

typedef struct Peer {
        int fd;
        Buf output;
} Peer;

static End launcher, audit, inits[CHANNELS_MAX];
static unsigned n_inits;
static Peer clients[CLIENTS_MAX];
static unsigned n_clients;
static uint64_t last_connection;
static uint64_t tokens[TOKENS_MAX]; /* what the worker waits for, newest last */
static unsigned n_tokens;
static Id sessions[TOKENS_MAX];
static unsigned n_sessions;
static const uint8_t *input;
static size_t input_size;
static char state_dir[] = "/tmp/sandboxd-fuzz-XXXXXX";

int worker_confine(_unused_ const WorkerSpec *spec)
{
        return 0;
}

int worker_prove(_unused_ const WorkerSpec *spec)
{
        return 0;
}

static int remove_one(const char *path, _unused_ const struct stat *st, _unused_ int type,
                      _unused_ struct FTW *walk)
{
        return remove(path);
}

static void remove_state(void)
{
        (void) nftw(state_dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

int LLVMFuzzerInitialize(_unused_ int *argc, _unused_ char ***argv)
{
        sb_assert(mkdtemp(state_dir) && atexit(remove_state) == 0);
        return 0;
}

/* ---- what the worker says ---- */

static void end_close(End *e)
{
        if (e->is_open)
                imsg_channel_done(&e->channel);
        e->is_open = false;
}

static void push_token(uint64_t token)
{
        tokens[n_tokens++ % TOKENS_MAX] = token;
}

static void check_create(Imsg *m)
{
        const PrivSessionCreate *body = m->body;
        const void *data;
        size_t size;
        Plan plan;

        sb_assert(PRIV_STRING_OK(body->claims.name) && PRIV_STRING_OK(body->claims.workspace));
        sb_assert(fd_map_sealed(m->fds[0], PLAN_SIZE_MAX, &data, &size) == 0);
        sb_assert(plan_open(data, size, &plan) == 0);
        sb_assert(munmap((void *) (uintptr_t) data, size) == 0);
        sb_assert(fd_map_sealed(m->fds[1], POLICY_BLOCK_MAX, &data, &size) == 0);
        sb_assert(munmap((void *) (uintptr_t) data, size) == 0);
        push_token(body->token);
}

/* Reads what lies on a channel; the table is checked by imsg_receive(). */
static void hear(End *e)
{
        while (e->is_open) {
                _cleanup_imsg_ Imsg m = { .n_fds = 0 };
                int r = imsg_receive(&e->channel, &m);

                if (r == 0)
                        return;
                sb_assert(r == 1 || r == -EPIPE);
                if (r < 0) {
                        end_close(e);
                        return;
                }
                if (m.type == PRIV_API_READY)
                        e->channel.phase = PHASE_RUN;
                else if (m.type == PRIV_SESSION_CREATE)
                        check_create(&m);
                else if (m.type == PRIV_RECORD_EXEC || m.type == PRIV_QUERY)
                        push_token(*(const uint64_t *) m.body);
        }
}

static void hear_all(void)
{
        hear(&launcher);
        hear(&audit);
        for (unsigned i = 0; i < n_inits; i++)
                hear(&inits[i]);
        for (unsigned i = 0; i < n_clients; i++) {
                char *tail;

                for (;;) {
                        size_t n;

                        if (clients[i].fd < 0 || buf_reserve(&clients[i].output, 65536, &tail) < 0)
                                break;
                        n = channel_drain(clients[i].fd, tail, 65536);
                        buf_commit(&clients[i].output, n);
                        if (n == 0)
                                break;
                }
        }
}

static void turn(Loop *l)
{
        do {
                turns_all(l);
                hear_all();
        } while (turns_once(l));
}

/* ---- what it hears ---- */

static uint8_t take(void)
{
        return fuzz_take_byte(&input, &input_size);
}

static size_t take_text(const uint8_t **ret)
{
        size_t n = take();

        n |= (size_t) take() << 8;
        n = MIN_OF(n, input_size);
        *ret = input;
        input += n;
        input_size -= n;
        return n;
}

static uint64_t pick_token(uint8_t choice)
{
        unsigned n = MIN_OF(n_tokens, TOKENS_MAX);

        return n == 0 || choice == 255 ? choice : tokens[(n_tokens - 1 - choice % n) % TOKENS_MAX];
}

static void add_client(uint8_t choice)
{
        PrivClient body = { .connection = ++last_connection,
                            .pid = 7,
                            .uid = USER_ID,
                            .gid = USER_ID,
                            .is_admin = choice & 1,
                            .is_auditor = (choice >> 1) & 1 };
        int fds[2];

        if (n_clients == CLIENTS_MAX || !launcher.is_open)
                return;
        sb_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
        sb_assert(imsg_send(&launcher.channel, PRIV_API_CLIENT, &body, sizeof(body), &fds[0], 1) == 0);
        fds[0] = fd_close(fds[0]);
        clients[n_clients++] = (Peer){ .fd = fds[1], .output = BUF_INIT(64U * 1024U * 1024U) };
}

/* A call: its text, perhaps in two pieces, with descriptors where the choice says so. */
static void call(uint8_t choice)
{
        const uint8_t *text;
        size_t n = take_text(&text), first;
        Peer *p;

        if (n_clients == 0)
                return;
        p = &clients[choice % n_clients];
        if (p->fd < 0 || n == 0)
                return;
        first = choice & 64 ? n / 2 + 1 : n;
        (void) channel_send(p->fd, text, MIN_OF(first, n), choice & 32 ? 3 : 0);
        if (first < n)
                (void) channel_send(p->fd, text + first, n - first, 0);
        if (!(choice & 16))
                (void) channel_send(p->fd, "", 1, 0);
}

static void new_init(End *e, int *ret_fd)
{
        int fds[2];

        sb_assert(imsg_pair(fds) == 0);
        sb_assert(imsg_channel_init(&e->channel, fds[1], CHANNEL_API_INIT, ROLE_INIT) == 0);
        e->channel.phase = PHASE_RUN;
        e->is_open = true;
        *ret_fd = fds[0];
}

static void fill(void *body, size_t size, size_t from)
{
        const uint8_t *text;
        size_t n = take_text(&text), at = from < size ? from : 0;

        n = MIN_OF(n, size - at);
        if (n > 0)
                memcpy((char *) body + at, text, n);
}

/* The launcher's answer to a create, honest but for what the input puts over it. */
static void session_created(uint8_t choice, PrivMessage type)
{
        PrivSessionCreated body = { .token = type == PRIV_API_ADOPT ? 0 : pick_token(choice & 15),
                                    .error = choice & 128 ? -EPERM : 0,
                                    .init_pid = 7,
                                    .created_usec = 1 };
        int fds[2] = { -EBADF, -EBADF };

        if (n_inits == CHANNELS_MAX || n_sessions == TOKENS_MAX)
                return;
        body.session.bytes[0] = (uint8_t) (n_sessions + 1);
        (void) !str_copy(body.cgroup, sizeof(body.cgroup), "/sandboxd/x");
        fill(&body, sizeof(body), choice & 64 ? 0 : offsetof(PrivSessionCreated, step));
        if (body.error == 0) {
                new_init(&inits[n_inits], &fds[0]);
                n_inits++;
                fds[1] = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
                sessions[n_sessions++] = body.session;
        }
        sb_assert(imsg_send(&launcher.channel, type, &body, sizeof(body), fds, body.error == 0 ? 2 : 0) ==
                  0);
        fd_close_many(fds, 2);
}

static void session_ended(uint8_t choice)
{
        PrivSessionEnd body = { .reason = choice % (_END_REASON_MAX + 2U) };

        if (n_sessions > 0)
                body.session = sessions[(choice >> 4) % n_sessions];
        sb_assert(imsg_send(&launcher.channel, PRIV_SESSION_ENDED, &body, sizeof(body), NULL, 0) == 0);
}

/* Any other message of theirs: header right, body from the input. */
static void say(End *e, PrivRole role, PrivChannel channel, uint8_t choice)
{
        static _Alignas(16) char body[64U * 1024U];
        static const int fds[IMSG_FDS_MAX] = { STDERR_FILENO, STDERR_FILENO, STDERR_FILENO,
                                               STDERR_FILENO, STDERR_FILENO, STDERR_FILENO,
                                               STDERR_FILENO, STDERR_FILENO, STDERR_FILENO };
        const PrivRule *rule = priv_rule(choice & 63U);
        uint64_t token;

        if (!e->is_open || !rule || rule->channel != channel || rule->sender != role ||
            rule->body_min > sizeof(body))
                return;
        memset(body, 0, rule->body_min);
        token = pick_token(take());
        if (choice & 64 && rule->body_min >= sizeof(token))
                memcpy(body, &token, sizeof(token));
        if (choice & 128 && n_sessions > 0 && rule->body_min >= sizeof(Id))
                memcpy(body, &sessions[0], sizeof(Id));
        fill(body, rule->body_min, choice & 64 ? sizeof(token) : 0);
        (void) !imsg_send(&e->channel, (PrivMessage) (choice & 63U), body, rule->body_min, fds,
                          rule->fds_min);
}

/* Audit's rows of a query: a pipe with what the input says. */
static void query_started(uint8_t choice)
{
        PrivRecorded body = { .token = pick_token(choice & 15), .error = choice & 128 ? -EIO : 0 };
        const uint8_t *text;
        size_t n = take_text(&text);
        int fds[2];

        if (!audit.is_open)
                return;
        sb_assert(pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0);
        (void) !write(fds[1], text, n);
        sb_assert(imsg_send(&audit.channel, PRIV_QUERY_STARTED, &body, sizeof(body), fds,
                            body.error == 0 ? 1 : 0) == 0);
        fd_close_many(fds, 2);
}

static void recorded(uint8_t choice)
{
        PrivRecorded body = { .token = pick_token(choice & 15),
                              .sequence = 7,
                              .error = choice & 128 ? -EIO : 0 };

        if (audit.is_open)
                sb_assert(imsg_send(&audit.channel, PRIV_RECORDED, &body, sizeof(body), NULL, 0) == 0);
}

static void attach_audit(PrivMessage type, const void *body, size_t size)
{
        int fds[2];

        end_close(&audit);
        sb_assert(imsg_pair(fds) == 0);
        sb_assert(imsg_channel_init(&audit.channel, fds[1], CHANNEL_API_AUDIT, ROLE_AUDIT) == 0);
        audit.channel.phase = PHASE_RUN;
        audit.is_open = true;
        sb_assert(imsg_send(&launcher.channel, type, body, size, &fds[0], 1) == 0);
        fds[0] = fd_close(fds[0]);
}

static void step(Loop *l)
{
        uint8_t what = take(), choice = take();

        switch (what % 12) {
        case 0:
        case 1:
                call(choice);
                break;
        case 2:
                add_client(choice);
                break;
        case 3:
                session_created(choice, PRIV_SESSION_CREATED);
                break;
        case 4:
                recorded(choice);
                break;
        case 5:
                query_started(choice);
                break;
        case 6:
                if (n_inits > 0)
                        say(&inits[take() % n_inits], ROLE_INIT, CHANNEL_API_INIT, choice);
                break;
        case 7:
                turns_fire(l, choice);
                break;
        case 8:
                session_ended(choice);
                break;
        case 9:
                if (n_clients > 0)
                        (void) shutdown(clients[choice % n_clients].fd, choice & 128 ? SHUT_RDWR : SHUT_WR);
                break;
        case 10:
                say(&launcher, ROLE_LAUNCHER, CHANNEL_LAUNCHER_API, choice);
                break;
        default:
                if (choice & 1)
                        attach_audit(PRIV_API_AUDIT_ATTACH, NULL, 0);
                else if (choice & 2)
                        end_close(&audit);
                else if (n_inits > 0)
                        end_close(&inits[(choice >> 2) % n_inits]);
                break;
        }
}

static void add_profile(BundleBuilder *b, const char *name)
{
        BundleText of = { .is_shipped = 1 };
        _cleanup_close_ int fd = -EBADF;
        _cleanup_free_ char *text = NULL;
        size_t size = 0;

        sb_assert(str_copy(of.name, sizeof(of.name), name) >= 0);
        sb_assert(str_printf(of.source, sizeof(of.source), "%s/%s.json", POLICY_FOLDER, name) >= 0);
        fd = open(of.source, O_RDONLY | O_CLOEXEC);
        sb_assert(fd >= 0 && fd_read_all(fd, BUNDLE_SIZE_MAX, &text, &size) >= 0);
        sb_assert(bundle_add(b, &of, text, size) >= 0);
}

static void send_settings(uint64_t generation)
{
        PrivApiSettings body = { .generation = generation,
                                 .settings = { .connections_per_user_max = 4,
                                               .sessions_per_user_max = 4,
                                               .retention_usec = UINT64_C(3600) * 1000 * 1000 } };
        BundleBuilder b = BUNDLE_BUILDER_INIT;
        int fd;

        add_profile(&b, "agent");
        add_profile(&b, "base");
        add_profile(&b, "offline");
        sb_assert(bundle_seal(&b, &fd) >= 0);
        bundle_builder_done(&b);
        sb_assert(imsg_send(&launcher.channel, PRIV_API_SETTINGS, &body, sizeof(body), &fd, 1) == 0);
        (void) fd_close(fd);
}

/* What loop_run() does in the worker's main(). */
static void drive(Loop *l)
{
        PrivApiStart start = { .identity = { .uid = USER_ID, .gid = USER_ID },
                               .session_uid = USER_ID,
                               .session_gid = USER_ID,
                               .controllers = 0,
                               .folders = { "/etc/sandboxd", "/var/lib/sandboxd", "/run/sandboxd" } };

        (void) !str_copy(start.identity.user, sizeof(start.identity.user), "fuzz");
        (void) !str_copy(start.identity.group, sizeof(start.identity.group), "fuzz");
        (void) !str_copy(start.identity.home, sizeof(start.identity.home), "/home/fuzz");
        (void) !str_copy(start.identity.shell, sizeof(start.identity.shell), "/bin/sh");
        turn(l);
        attach_audit(PRIV_API_START, &start, sizeof(start));
        send_settings(1);
        add_client(0);
        turn(l);
        for (unsigned i = 0; i < STEPS_MAX && input_size > 0 && !turns_are_over(l) && launcher.is_open;
             i++) {
                step(l);
                turn(l);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static char uid[16];
        char *argv[] = { (char *) (uintptr_t) "sandboxd-api",
                         (char *) (uintptr_t) "--uid",
                         (char *) (uintptr_t) "1000",
                         (char *) (uintptr_t) "--worker-uid",
                         uid,
                         (char *) (uintptr_t) "--worker-gid",
                         uid,
                         (char *) (uintptr_t) "--state-dir",
                         state_dir,
                         NULL };
        int fds[2], next;

        (void) close(LAUNCHER_FD); /* may not be open */
        next = channel_next_fd();
        sb_assert(str_printf(uid, sizeof(uid), "%u", getuid()) >= 0);
        sb_assert(imsg_pair(fds) == 0);
        if (fds[0] == LAUNCHER_FD)
                fds[0] = fcntl(LAUNCHER_FD, F_DUPFD_CLOEXEC, LAUNCHER_FD + 1);
        sb_assert(dup2(fds[1], LAUNCHER_FD) == LAUNCHER_FD && fd_set_cloexec(LAUNCHER_FD, true) >= 0);
        fds[1] = fd_close(fds[1]);
        sb_assert(imsg_channel_init(&launcher.channel, fds[0], CHANNEL_LAUNCHER_API, ROLE_LAUNCHER) == 0);
        launcher.is_open = true;
        launcher.channel.phase = PHASE_SETUP;
        input = data;
        input_size = size;
        turns_set_driver(drive);
        (void) sandboxd_api_main(ELEMENTSOF(argv) - 1, argv);
        hear_all();
        end_close(&launcher);
        end_close(&audit);
        for (unsigned i = 0; i < n_inits; i++)
                end_close(&inits[i]);
        for (unsigned i = 0; i < n_clients; i++) {
                messages_check_prefix(&clients[i].output);
                buf_done(&clients[i].output);
                clients[i].fd = fd_close(clients[i].fd);
        }
        n_clients = n_inits = n_tokens = n_sessions = 0;
        last_connection = 0;
        sb_assert(channel_next_fd() == next);
        return 0;
}
