/* The two messages that start a command, with the two ends of its gate. */

#include <sys/socket.h>

#include "daemon/api/context.h"
#include "daemon/api/store.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"

#define RECORD_DEADLINE_USEC (5 * USEC_PER_SEC)

static int ask_record(Process *p, int gate_fd)
{
        Api *api = p->session->api;
        PrivRecordExec record = { .session = p->session->id, .process = p->number };
        Buf arguments = BUF_INIT(PRIV_RECORD_EXEC_MAX - sizeof(record));
        int r = 0;

        for (size_t i = 0; r >= 0 && i < json_n(p->command_line); i++) {
                const char *s = json_string(json_at(p->command_line, i));

                r = buf_put(&arguments, s, strlen(s) + (i + 1 < json_n(p->command_line)));
                if (r == -ENOBUFS && i == 0)
                        r = buf_put(&arguments, s, PRIV_RECORD_EXEC_MAX - sizeof(record));
        }
        /* What does not fit is cut, as the row would be. */
        if (r >= 0 || r == -ENOBUFS) {
                record.token = p->record_token = ++api->next_token;
                r = priv_link_send_tail(api->audit, PRIV_RECORD_EXEC, &record, sizeof(record),
                                        buf_front(&arguments), buf_size(&arguments), &gate_fd, 1);
        }
        buf_done(&arguments);
        return r < 0 ? r : loop_timer_set(p->timer, RECORD_DEADLINE_USEC);
}

static int ask_init(Process *p, int gate_fd)
{
        int fds[4] = { gate_fd }, r;

        for (size_t i = 0; i < p->n_fds; i++)
                fds[i + 1] = p->fds[i];
        r = priv_link_send_tail(p->session->init, PRIV_EXEC, &p->exec, sizeof(p->exec),
                                buf_front(&p->strings), buf_size(&p->strings), fds, p->n_fds + 1);
        fd_close_many(p->fds, p->n_fds);
        p->n_fds = 0;
        buf_done(&p->strings);
        return r;
}

/* A successor of ours asks init about those that it finds in the store; one that init knows and the store
 * does not would be run a second time. A session of a short while is not stored before it has to be. */
static int ask_init_stored(Process *p, int gate_fd)
{
        int r;

        if (p->request && !p->session->is_stored)
                session_store(p->session);
        else if (p->request)
                session_store_process(p);
        r = ask_init(p, gate_fd);
        if (r < 0 && p->request) {
                p->state = PROCESS_FAILED;
                p->reason = END_SETUP_FAILED;
                session_store_process(p);
        }
        return r;
}

/* The row first: what init makes of the other end waits for it. */
int process_start(Process *p)
{
        _cleanup_close_ int ours = -EBADF, theirs = -EBADF;
        int gate[2], r;

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, gate) < 0)
                return neg_errno();
        ours = gate[0];
        theirs = gate[1];
        r = ask_record(p, ours);
        process_shorten_command_line(p);
        return r < 0 ? r : ask_init_stored(p, theirs);
}
