/* The checkpoints, walked along with the rows: those of the file, those of the database, the caller's. */

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/audit/verify_impl.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

void marks_close(Verifier *v)
{
        if (v->lines)
                (void) fclose(v->lines);
        v->lines = NULL;
}

/* Its place in the log is not known: right behind the one before, or behind what was checked. */
static int bad_line(Verifier *v, const char *message)
{
        return bad(v, MAX_OF(v->line.sequence + 1, v->result->first_sequence), message);
}

static int next_line(Verifier *v)
{
        char text[CHECKPOINT_LINE_SIZE + 1];
        Checkpoint c;
        size_t n;

        v->has_line = false;
        if (!v->lines || v->lines_left <= 0 || !fgets(text, sizeof(text), v->lines))
                return 0;
        n = strlen(text);
        v->lines_left -= (long) n;
        if (n == 0 || text[n - 1] != '\n') {
                /* The end of the file: a line that is being written, or was when the power went. */
                if (v->lines_left <= 0)
                        return 0;
                return bad_line(v, "a line of the file of checkpoints is damaged");
        }
        text[n - 1] = '\0';
        if (checkpoint_parse(text, &c) < 0)
                return bad_line(v, "a line of the file of checkpoints is damaged");
        if (c.sequence < v->line.sequence)
                return bad(v, c.sequence, "the file of checkpoints is out of order");
        v->line = c;
        v->has_line = true;
        return 0;
}

/* As much of the file as there is now: lines that come later are about rows that come later. */
int marks_open(Verifier *v, const char *directory)
{
        _cleanup_close_ int fd = -EBADF;
        char path[PRIV_PATH_SIZE];
        struct stat st;
        int r;

        r = str_printf(path, sizeof(path), "%s/" CHECKPOINT_FILE, directory);
        if (r < 0)
                return r;
        fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
                return errno == ENOENT ? 0 : neg_errno();
        if (fstat(fd, &st) < 0)
                return neg_errno();
        if (!S_ISREG(st.st_mode))
                return -EBADMSG;
        v->lines = fdopen(fd, "re");
        if (!v->lines)
                return neg_errno();
        fd = -EBADF;
        v->lines_left = st.st_size;
        return next_line(v);
}

static int read_mark(Verifier *v)
{
        RowBytes head = bytes_of(v->marks, 2), signature = bytes_of(v->marks, 4);
        const char *name = sql_text(v->marks, 3);
        char id[KEY_ID_SIZE];
        int r;

        v->mark.sequence = (uint64_t) sql_integer(v->marks, 0);
        v->mark.realtime_usec = (uint64_t) sql_integer(v->marks, 1);
        if (head.size != DIGEST_SIZE || signature.size != SIGNATURE_SIZE || !name)
                return bad(v, v->mark.sequence, "the checkpoint is damaged");
        memcpy(v->mark.head, head.data, DIGEST_SIZE);
        memcpy(v->mark.signature, signature.data, SIGNATURE_SIZE);
        r = key_id(v->segment->public_key, id);
        if (r < 0)
                return r;
        if (!str_equal(name, id))
                return bad(v, v->mark.sequence, "the checkpoint names another key");
        v->has_mark = true;
        return 0;
}

int marks_fetch(Verifier *v)
{
        int r;

        if (v->has_mark)
                return 0;
        sql_bind_integer(v->marks, 1, (int64_t) v->mark.sequence);
        r = sql_step(v->marks);
        if (r > 0)
                r = read_mark(v);
        sql_reset(v->marks);
        return r;
}

static int check(Verifier *v, const Checkpoint *c)
{
        int r;

        if (memcmp(c->head, v->result->head, DIGEST_SIZE) != 0)
                return bad(v, c->sequence, "the row is not the one that was signed");
        if (memcmp(c, &v->last_good, sizeof(*c)) == 0)
                return 0;
        if (!v->segment->has_public_key)
                return bad(v, c->sequence, "a checkpoint although the segment names no key");
        r = checkpoint_verify(c, v->segment->public_key);
        if (r < 0)
                return r;
        if (r == 0)
                return bad(v, c->sequence, "the checkpoint is not signed with the log's key");
        v->last_good = *c;
        v->result->n_checkpoints++;
        v->result->signed_sequence = c->sequence;
        return 0;
}

int marks_check(Verifier *v, uint64_t sequence)
{
        const VerifySpec *spec = v->spec;
        int r = 0;

        if (sequence == spec->head_sequence && memcmp(spec->head_hash, v->result->head, DIGEST_SIZE) != 0)
                return bad(v, sequence, "the row is not the one that was given");
        if (v->has_mark && v->mark.sequence == sequence) {
                r = check(v, &v->mark);
                v->has_mark = false;
                if (r == 0)
                        r = marks_fetch(v);
        }
        /* What is said about rows that were retired cannot be checked. */
        while (r == 0 && v->has_line && v->line.sequence < sequence)
                r = next_line(v);
        while (r == 0 && v->has_line && v->line.sequence == sequence) {
                r = check(v, &v->line);
                if (r == 0)
                        r = next_line(v);
        }
        return r;
}

int marks_end_segment(Verifier *v)
{
        bool is_whole = v->spec->to == 0 || v->expected <= v->spec->to;

        return is_whole && v->has_mark ? bad(v, v->expected, "rows are missing up to a checkpoint") : 0;
}

int marks_end(Verifier *v)
{
        int r = 0;

        if (v->spec->to > 0)
                return 0;
        if (v->spec->head_sequence >= v->expected)
                return bad(v, v->expected, "rows are missing up to the one that was given");
        while (r == 0 && v->has_line && v->line.sequence < v->expected)
                r = next_line(v);
        if (r == 0 && v->has_line)
                return bad(v, v->expected, "rows are missing up to a checkpoint of the file");
        return r;
}
