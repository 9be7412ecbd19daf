/*
 * What api workers are told beside answers: what their sessions were denied, that rows are missing, whether
 * rows can be written. A session can be denied thousands of times a second: so many of them are told one by
 * one, the rest of that second as one message with their number.
 */

#include <fcntl.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "daemon/audit/queue.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define DENIALS_TOLD_MAX 16U /* a second and session */
#define PROBE_NAME       "probe.tmp"
#define PROBE_BYTES      4096U

/* ---- denials ---- */

static void send_denied(Audit *a, Session *s, const PrivDenied *d)
{
        LIST_FOREACH (api, &a->apis, Api, link) {
                if (api->uid == s->row.uid)
                        (void) priv_link_send(api->channel, PRIV_DENIED, d, sizeof(*d), NULL, 0);
        }
}

void denials_flush(Audit *a, Session *s)
{
        PrivDenied *held = TAKE_PTR(s->denials.held);

        if (held)
                send_denied(a, s, held);
        free(held);
}

static void on_denials(void *userdata)
{
        Audit *a = userdata;
        size_t cursor = 0;

        a->is_denials_set = false;
        for (Session *s = map_next(&a->sessions, &cursor); s; s = map_next(&a->sessions, &cursor))
                denials_flush(a, s);
}

static int arm(Audit *a)
{
        int r = 0;

        if (a->is_denials_set)
                return 0;
        if (!a->denials)
                r = loop_timer_new(a->loop, on_denials, a, &a->denials);
        if (r >= 0)
                r = loop_timer_set(a->denials, USEC_PER_SEC);
        a->is_denials_set = r >= 0;
        return r;
}

/* The newest stands for all that are held. */
static void hold(Audit *a, Session *s, const PrivDenied *d)
{
        uint32_t count = s->denials.held ? s->denials.held->count : 0;

        if (!s->denials.held)
                s->denials.held = malloc(sizeof(*d));
        if (!s->denials.held || arm(a) < 0) {
                denials_flush(a, s);
                return;
        }
        *s->denials.held = *d;
        s->denials.held->count = count < UINT32_MAX ? count + 1 : count;
}

void denials_tell(Audit *a, Session *s, const PrivDenied *d)
{
        uint64_t now = clock_monotonic_usec();

        if (now - s->denials.since_usec >= USEC_PER_SEC) {
                denials_flush(a, s);
                s->denials.since_usec = now;
                s->denials.n = 0;
        }
        if (s->denials.n >= DENIALS_TOLD_MAX) {
                hold(a, s, d);
                return;
        }
        s->denials.n++;
        send_denied(a, s, d);
}

/* ---- gaps ---- */

void gap_tell(Audit *a, uint64_t n_rows, uint64_t first_usec, uint64_t last_usec)
{
        PrivAuditGap gap = { .first_usec = first_usec, .last_usec = last_usec };

        LIST_FOREACH (api, &a->apis, Api, link) {
                gap.n_rows = api->sees_all ? n_rows : 0;
                (void) priv_link_send(api->channel, PRIV_AUDIT_GAP, &gap, sizeof(gap), NULL, 0);
        }
}

/* ---- the store's state ---- */

static int write_probe(int directory_fd)
{
        _cleanup_close_ int fd =
                        openat(directory_fd, PROBE_NAME, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        static const char zeros[PROBE_BYTES];
        int r;

        if (fd < 0)
                return neg_errno();
        r = fd_write_all(fd, zeros, sizeof(zeros));
        if (r >= 0 && fdatasync(fd) < 0)
                r = neg_errno();
        if (unlinkat(directory_fd, PROBE_NAME, 0) < 0 && r >= 0)
                r = neg_errno();
        return r;
}

/* Really writes: a full disk shows before the next row meets it. Once a second will do for everybody. */
static void probe(Audit *a)
{
        _cleanup_close_ int fd = -EBADF;
        uint64_t now = clock_monotonic_usec();
        struct statvfs st;

        if (a->probe.at_usec > 0 && now - a->probe.at_usec < USEC_PER_SEC)
                return;
        a->probe.at_usec = now;
        fd = open(a->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        a->probe.error = fd < 0 ? neg_errno() : write_probe(fd);
        if (fd >= 0 && fstatvfs(fd, &st) >= 0)
                a->probe.free_bytes = (uint64_t) st.f_bavail * st.f_frsize;
}

void state_answer(Api *api, const PrivAuditStateAsk *ask)
{
        Audit *a = api->audit;
        PrivAuditState state = { .token = ask->token,
                                 .head_sequence = api->sees_all ? store_head(a->store) : 0,
                                 .error = a->is_failing ? -EIO : 0 };

        if (ask->has_probe) {
                probe(a);
                state.free_bytes = a->probe.free_bytes;
                if (state.error == 0)
                        state.error = a->probe.error;
        }
        (void) priv_link_send(api->channel, PRIV_AUDIT_STATE, &state, sizeof(state), NULL, 0);
}
