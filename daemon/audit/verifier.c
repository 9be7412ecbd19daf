/* The reader of one verification: its progress and its verdict as frames on the pipe. */

#include <errno.h>
#include <unistd.h>

#include "daemon/audit/reader.h"
#include "daemon/audit/verify.h"
#include "proto/base/error.h"
#include "proto/base/str.h"

#define PROGRESS_ROWS 20000U

typedef struct Output {
        int fd;
        uint64_t next_rows; /* when there is something to tell again */
} Output;

/* A frame is smaller than a pipe takes as a whole. */
static int put(int fd, const Verification *v, bool is_last)
{
        AuditVerification f = { .is_last = is_last,
                                .is_retired = v->is_retired,
                                .has_key = v->has_key,
                                .n_checked = v->n_checked,
                                .n_checkpoints = v->n_checkpoints,
                                .n_erased = v->n_erased,
                                .first_sequence = v->first_sequence,
                                .head_sequence = v->head_sequence,
                                .signed_sequence = v->signed_sequence,
                                .bad_sequence = v->bad_sequence };

        memcpy(f.key, v->public_key, sizeof(f.key));
        memcpy(f.head, v->head, sizeof(f.head));
        if (v->message && str_copy(f.message, sizeof(f.message), v->message) < 0)
                return -EINVAL;
        return write(fd, &f, sizeof(f)) == (ssize_t) sizeof(f) ? 0 : neg_errno();
}

/* Who does not read is not waited for: the pipe takes some hundred frames, and a write to a closed one ends
 * the verification. */
static int on_progress(void *userdata, const Verification *so_far)
{
        Output *o = userdata;

        if (so_far->n_checked < o->next_rows)
                return 0;
        o->next_rows = so_far->n_checked + PROGRESS_ROWS;
        return put(o->fd, so_far, /* is_last= */ false);
}

int verifier_run(const char *directory, const PrivVerify *request, int out_fd)
{
        Output o = { .fd = out_fd, .next_rows = PROGRESS_ROWS };
        VerifySpec spec = { .from = request->from,
                            .to = request->to,
                            .key = request->has_key ? request->key : NULL,
                            .head_sequence = request->head_sequence,
                            .head_hash = request->head,
                            .progress = on_progress,
                            .userdata = &o };
        Verification v;
        int r;

        r = verify_directory(directory, &spec, &v);
        return r < 0 ? r : put(out_fd, &v, /* is_last= */ true);
}
