#include <errno.h>

#include "daemon/audit/audit.h"
#include "daemon/audit/chain.h"
#include "proto/base/clock.h"
#include "proto/base/str.h"

#define POLICY_TEXT_MAX (16U * 1024U * 1024U)

/* Of a session that the former run knew: as many as can run in one at a time. */
#define COMMANDS_BEFORE 1024U

/* All strings of a session in one allocation: copies one and moves on. NULL and, where it is allowed, "" are
 * none. */
static const char *keep(char **at, const char *s, bool may_be_empty)
{
        size_t n;
        char *to = *at;

        if (!s || (!may_be_empty && s[0] == '\0'))
                return NULL;
        n = strlen(s) + 1;
        memcpy(to, s, n);
        *at += n;
        return to;
}

static size_t size_of(const RowSession *row)
{
        const char *const all[] = { row->user,          row->name,      row->profile, row->agent,
                                    row->agent_session, row->workspace, row->cgroup,  row->degraded };
        size_t n = 0;

        for (size_t i = 0; i < ELEMENTSOF(all); i++)
                n += all[i] ? strlen(all[i]) + 1 : 0;
        return n + 1;
}

static int session_alloc(const Id *id, const RowSession *row, Session **ret)
{
        _cleanup_(session_unrefp) Session *s = calloc(1, sizeof(*s));
        char *at;

        if (!s)
                return -ENOMEM;
        *s = (Session){ .id = *id, .n_refs = 1 };
        id_format(id, s->id_text);
        s->text = at = malloc(size_of(row));
        if (!s->text)
                return -ENOMEM;
        s->row = (RowSession){
                .id = s->id_text,
                .uid = row->uid,
                .user = keep(&at, row->user, /* may_be_empty= */ true),
                .name = keep(&at, row->name, false),
                .profile = keep(&at, row->profile, /* may_be_empty= */ true),
                .agent = keep(&at, row->agent, false),
                .agent_session = keep(&at, row->agent_session, false),
                .workspace = keep(&at, row->workspace, false),
                .cgroup = keep(&at, row->cgroup, false),
                .degraded = keep(&at, row->degraded, /* may_be_empty= */ true),
                .started_usec = row->started_usec,
        };
        *ret = TAKE_PTR(s);
        return 0;
}

/* The block comes from an api worker: that its digest is that of its text is for us to see, since the log
 * promises it. */
static int prove_text(PolicyShare *share)
{
        const PolicyBlock *b = policy_share_block(share);
        _cleanup_(chain_freep) Chain *chain = NULL;
        const char *text = policy_block_text(b);
        uint8_t digest[DIGEST_SIZE];
        int r;

        if (policy_share_is_text_proven(share))
                return 0;
        if (strnlen(text, POLICY_TEXT_MAX) == POLICY_TEXT_MAX)
                return -EFBIG;
        r = chain_new(&chain);
        if (r >= 0)
                r = chain_digest(chain, text, strlen(text), digest);
        if (r < 0)
                return r;
        if (memcmp(digest, policy_block_digest(b), sizeof(digest)) != 0 ||
            !str_is_utf8(text, strlen(text)) || policy_block_generation(b) > INT64_MAX)
                return -EBADMSG;
        policy_share_prove_text(share);
        return 0;
}

static int open_policy(Audit *a, Session *s, int policy_fd)
{
        int r;

        r = policy_shelf_open(&a->policies, policy_fd, &s->policy_share);
        if (r >= 0)
                r = prove_text(s->policy_share);
        if (r < 0)
                return r;
        s->policy = policy_share_block(s->policy_share);
        s->policy_row = (RowPolicy){ .digest = policy_block_digest(s->policy),
                                     .name = policy_block_name(s->policy),
                                     .source = "session",
                                     .text = policy_block_text(s->policy),
                                     .generation = policy_block_generation(s->policy),
                                     .by_uid = s->row.uid };
        return 0;
}

static int check_open(const PrivSessionOpen *o)
{
        const struct {
                const char *text;
                size_t size;
                bool is_text;
        } all[] = {
                { o->user, sizeof(o->user), true },
                { o->cgroup, sizeof(o->cgroup), true },
                { o->degraded, sizeof(o->degraded), true },
                { o->claims.name, sizeof(o->claims.name), true },
                { o->claims.profile, sizeof(o->claims.profile), true },
                { o->claims.agent, sizeof(o->claims.agent), true },
                { o->claims.agent_session, sizeof(o->claims.agent_session), true },
                { o->claims.workspace, sizeof(o->claims.workspace), false },
        };

        for (size_t i = 0; i < ELEMENTSOF(all); i++) {
                const char *nul = memchr(all[i].text, '\0', all[i].size);

                if (!nul)
                        return -EPROTO;
                if (all[i].is_text && !str_is_utf8(all[i].text, (size_t) (nul - all[i].text)))
                        return -EINVAL;
        }
        return 0;
}

int session_new(Audit *a, const PrivSessionOpen *o, int policy_fd, Session **ret)
{
        RowSession row = { .uid = o->uid,
                           .user = o->user,
                           .name = o->claims.name,
                           .profile = o->claims.profile,
                           .agent = o->claims.agent,
                           .agent_session = o->claims.agent_session,
                           .workspace = o->claims.workspace,
                           .cgroup = o->cgroup,
                           .degraded = o->degraded,
                           .started_usec = clock_realtime_usec() };

        return session_new_known(a, &row, o, policy_fd, ret);
}

int session_new_known(Audit *a, const RowSession *row, const PrivSessionOpen *o, int policy_fd,
                      Session **ret)
{
        _cleanup_(session_unrefp) Session *s = NULL;
        int r;

        r = check_open(o);
        if (r >= 0)
                r = session_alloc(&o->session, row, &s);
        if (r >= 0)
                r = open_policy(a, s, policy_fd);
        if (r >= 0)
                r = map_put(&a->sessions, &s->id, sizeof(s->id), s);
        if (r < 0)
                return r;
        s->has_no_network = o->has_no_network != 0;
        if (o->is_known)
                s->n_commands = COMMANDS_BEFORE;
        *ret = TAKE_PTR(s);
        return 0;
}

int session_new_leftover(Audit *a, const RowSession *row, Session **ret)
{
        _cleanup_(session_unrefp) Session *s = NULL;
        Id id;
        int r;

        if (!row->id || !row->user || !row->profile || !row->degraded || id_parse(row->id, &id) < 0)
                return -EBADMSG;
        r = session_alloc(&id, row, &s);
        if (r >= 0)
                r = map_put(&a->sessions, &s->id, sizeof(s->id), s);
        if (r < 0)
                return r;
        s->is_leftover = true;
        *ret = TAKE_PTR(s);
        return 0;
}

Session *session_find(Audit *a, const Id *id)
{
        return map_get(&a->sessions, id, sizeof(*id));
}

Session *session_ref(Session *s)
{
        s->n_refs++;
        return s;
}

Session *session_unref(Session *s)
{
        if (!s || --s->n_refs > 0)
                return NULL;
        s->policy_share = policy_share_close(s->policy_share);
        map_done(&s->counts);
        name_budget_done(&s->names);
        free(s->denials.held);
        free(s->text);
        free(s);
        return NULL;
}

void session_drop(Audit *a, Session *s)
{
        if (map_get(&a->sessions, &s->id, sizeof(s->id)) != s)
                return;
        (void) map_remove(&a->sessions, &s->id, sizeof(s->id));
        s->egress = egress_free(s->egress);
        (void) session_unref(s);
}
