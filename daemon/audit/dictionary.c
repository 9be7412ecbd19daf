#include "daemon/audit/dictionary.h"

#include <errno.h>
#include <string.h>

#include "daemon/audit/known.h"
#include "proto/base/clock.h"
#include "proto/base/hash.h"

enum DictionaryStatement {
        FIND_SESSION = 0,
        INSERT_SESSION,
        FIND_POLICY,
        INSERT_POLICY,
        FIND_RULE,
        INSERT_RULE,
        FIND_HOST,
        INSERT_HOST,
        FIND_EXECUTABLE,
        INSERT_EXECUTABLE,
        _DICTIONARY_STATEMENT_MAX,
};

static const char *const statements[] = {
        [FIND_SESSION] = "SELECT session_id FROM session WHERE id=?1",
        [INSERT_SESSION] =
                        "INSERT INTO session(id,uid,user,name,profile,agent,agent_session,workspace,cgroup,"
                        "degraded,started_us) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11)",
        [FIND_POLICY] = "SELECT policy_id FROM policy WHERE sha256=?1",
        [INSERT_POLICY] =
                        "INSERT INTO policy(sha256,loaded_us,name,source,by_uid,body) VALUES(?1,?2,?3,?4,?5,?6)",
        [FIND_RULE] = "SELECT rule_id FROM rule WHERE layer=?1 AND name=?2 AND text=?3",
        [INSERT_RULE] = "INSERT INTO rule(layer,name,text) VALUES(?1,?2,?3)",
        [FIND_HOST] = "SELECT host_id FROM host WHERE name=?1",
        [INSERT_HOST] = "INSERT INTO host(name,first_us,first_session) VALUES(?1,?2,?3)",
        [FIND_EXECUTABLE] = "SELECT exe_id FROM exe WHERE path=?1 AND sha256 IS ?2",
        [INSERT_EXECUTABLE] = "INSERT INTO exe(path,sha256) VALUES(?1,?2)",
};
ASSERT_TABLE(statements, _DICTIONARY_STATEMENT_MAX);

static const char *const first_rows[] = {
        "SELECT session_id,min(seq) FROM decision WHERE session_id IS NOT NULL GROUP BY session_id",
        "SELECT session_id,min(seq) FROM flow WHERE session_id IS NOT NULL GROUP BY session_id",
};

enum DictionaryKnown {
        KNOWN_SESSION = 0,
        KNOWN_POLICY,
        KNOWN_RULE,
        KNOWN_HOST,
        _DICTIONARY_KNOWN_MAX,
};

/* Longer ones are looked up each time. */
#define RULE_KEY_SIZE 1024U

/* The first row that names a session; 0: none does yet. */
typedef struct First {
        int64_t session;
        uint64_t sequence;
} First;

struct Dictionary {
        Sql *sql;
        SqlStatement *statements[_DICTIONARY_STATEMENT_MAX];
        Known known[_DICTIONARY_KNOWN_MAX]; /* forgotten with each rollback */
        Map firsts;
};

static int find_first(Dictionary *d, int64_t session, First **ret)
{
        First *f = map_get(&d->firsts, &session, sizeof(session));
        int r;

        if (!f) {
                f = calloc(1, sizeof(*f));
                if (!f)
                        return -ENOMEM;
                f->session = session;
                r = map_put(&d->firsts, &f->session, sizeof(f->session), f);
                if (r < 0) {
                        free(f);
                        return r;
                }
        }
        *ret = f;
        return 0;
}

static int load_firsts(Dictionary *d, const char *text)
{
        _cleanup_(sql_finalizep) SqlStatement *t = NULL;
        int r;

        r = sql_prepare(d->sql, text, &t);
        while (r >= 0 && (r = sql_step(t)) > 0) {
                First *f;

                r = find_first(d, sql_integer(t, 0), &f);
                if (r >= 0)
                        f->sequence = (uint64_t) sql_integer(t, 1);
        }
        return r;
}

int dictionary_open(Sql *sql, Dictionary **ret)
{
        _cleanup_(dictionary_closep) Dictionary *d = calloc(1, sizeof(*d));
        int r = 0;

        if (!d)
                return -ENOMEM;
        d->sql = sql;
        for (size_t i = 0; i < _DICTIONARY_STATEMENT_MAX && r >= 0; i++)
                r = sql_prepare(sql, statements[i], &d->statements[i]);
        for (size_t i = 0; i < ELEMENTSOF(first_rows) && r >= 0; i++)
                r = load_firsts(d, first_rows[i]);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(d);
        return 0;
}

static void forget(Dictionary *d)
{
        for (size_t i = 0; i < _DICTIONARY_KNOWN_MAX; i++)
                known_clear(&d->known[i]);
}

Dictionary *dictionary_close(Dictionary *d)
{
        size_t cursor = 0;
        First *f;

        if (!d)
                return NULL;
        for (size_t i = 0; i < _DICTIONARY_STATEMENT_MAX; i++)
                (void) sql_finalize(d->statements[i]);
        while ((f = map_next(&d->firsts, &cursor)))
                free(f);
        map_done(&d->firsts);
        forget(d);
        free(d);
        return NULL;
}

int dictionary_is_first(Dictionary *d, int64_t session, bool *ret)
{
        First *f;
        int r;

        r = find_first(d, session, &f);
        if (r < 0)
                return r;
        *ret = f->sequence == 0;
        return 0;
}

void dictionary_mark(const Dictionary *d, int64_t session, uint64_t sequence)
{
        First *f = map_get(&d->firsts, &session, sizeof(session));

        if (f && f->sequence == 0)
                f->sequence = sequence;
}

void dictionary_rollback(Dictionary *d, uint64_t sequence)
{
        size_t cursor = 0;
        First *f;

        /* What was entered since is gone as well. */
        forget(d);
        while ((f = map_next(&d->firsts, &cursor)))
                if (f->sequence > sequence)
                        f->sequence = 0;
}

/* Runs the look-up; where it finds nothing, the insertion. Both are bound already. */
static int find_or_insert(SqlStatement *find, SqlStatement *insert, int64_t *ret_id, bool *ret_is_new)
{
        int r;

        *ret_is_new = false;
        r = sql_step(find);
        if (r < 0)
                return r;
        if (r > 0) {
                *ret_id = sql_integer(find, 0);
                sql_reset(find);
                return 0;
        }
        r = sql_run(insert);
        if (r < 0)
                return r;
        *ret_id = sql_last_id(insert);
        *ret_is_new = true;
        return 0;
}

int dictionary_enter_session(Dictionary *d, const RowSession *session, int64_t *ret)
{
        SqlStatement *find = d->statements[FIND_SESSION], *t = d->statements[INSERT_SESSION];
        size_t n_workspace = session->workspace ? strlen(session->workspace) : 0;
        bool is_new;
        int r;

        *ret = known_find(&d->known[KNOWN_SESSION], session->id, strlen(session->id));
        if (*ret >= 0)
                return 0;
        sql_bind_text(find, 1, session->id);
        sql_bind_text(t, 1, session->id);
        sql_bind_integer(t, 2, session->uid);
        sql_bind_text(t, 3, session->user);
        sql_bind_text(t, 4, session->name);
        sql_bind_text(t, 5, session->profile);
        sql_bind_text(t, 6, session->agent);
        sql_bind_text(t, 7, session->agent_session);
        sql_bind_blob(t, 8, session->workspace, n_workspace);
        sql_bind_text(t, 9, session->cgroup);
        sql_bind_text(t, 10, session->degraded);
        sql_bind_integer(t, 11, (int64_t) session->started_usec);
        r = find_or_insert(find, t, ret, &is_new);
        if (r >= 0)
                known_put(&d->known[KNOWN_SESSION], session->id, strlen(session->id), *ret);
        return r;
}

static int policy_id(Dictionary *d, const RowPolicy *policy, int64_t *ret, bool *ret_is_new)
{
        SqlStatement *find = d->statements[FIND_POLICY], *t = d->statements[INSERT_POLICY];
        int r;

        *ret = known_find(&d->known[KNOWN_POLICY], policy->digest, DIGEST_SIZE);
        if (*ret >= 0)
                return 0;
        sql_bind_blob(find, 1, policy->digest, DIGEST_SIZE);
        sql_bind_blob(t, 1, policy->digest, DIGEST_SIZE);
        sql_bind_integer(t, 2, (int64_t) clock_realtime_usec());
        sql_bind_text(t, 3, policy->name);
        sql_bind_text(t, 4, policy->source);
        sql_bind_number(t, 5, policy->by_uid);
        sql_bind_text(t, 6, policy->text);
        r = find_or_insert(find, t, ret, ret_is_new);
        if (r >= 0)
                known_put(&d->known[KNOWN_POLICY], policy->digest, DIGEST_SIZE, *ret);
        return r;
}

/* How long the key of a rule is; 0: too long. */
static size_t put_rule_key(const RowRule *rule, char key[RULE_KEY_SIZE])
{
        const char *const parts[] = { rule->layer, rule->name, rule->text };
        size_t n = 0;

        for (size_t i = 0; i < ELEMENTSOF(parts); i++) {
                size_t size = strlen(parts[i]) + 1;

                if (size > RULE_KEY_SIZE - n)
                        return 0;
                memcpy(key + n, parts[i], size);
                n += size;
        }
        return n;
}

static int rule_id(Dictionary *d, const RowRule *rule, int64_t *ret)
{
        SqlStatement *pair[] = { d->statements[FIND_RULE], d->statements[INSERT_RULE] };
        char key[RULE_KEY_SIZE];
        size_t n = put_rule_key(rule, key);
        bool is_new;
        int r;

        *ret = n > 0 ? known_find(&d->known[KNOWN_RULE], key, n) : -1;
        if (*ret >= 0)
                return 0;
        for (size_t i = 0; i < ELEMENTSOF(pair); i++) {
                sql_bind_text(pair[i], 1, rule->layer);
                sql_bind_text(pair[i], 2, rule->name);
                sql_bind_text(pair[i], 3, rule->text);
        }
        r = find_or_insert(pair[0], pair[1], ret, &is_new);
        if (r >= 0 && n > 0)
                known_put(&d->known[KNOWN_RULE], key, n, *ret);
        return r;
}

static int host_id(Dictionary *d, const char *host, int64_t session, int64_t *ret)
{
        SqlStatement *find = d->statements[FIND_HOST], *t = d->statements[INSERT_HOST];
        bool is_new;
        int r;

        *ret = known_find(&d->known[KNOWN_HOST], host, strlen(host));
        if (*ret >= 0)
                return 0;
        sql_bind_text(find, 1, host);
        sql_bind_text(t, 1, host);
        sql_bind_integer(t, 2, (int64_t) clock_realtime_usec());
        sql_bind_number(t, 3, session);
        r = find_or_insert(find, t, ret, &is_new);
        if (r >= 0)
                known_put(&d->known[KNOWN_HOST], host, strlen(host), *ret);
        return r;
}

static int executable_id(Dictionary *d, const Row *row, int64_t *ret)
{
        SqlStatement *pair[] = { d->statements[FIND_EXECUTABLE], d->statements[INSERT_EXECUTABLE] };
        bool is_new;

        for (size_t i = 0; i < ELEMENTSOF(pair); i++) {
                sql_bind_blob(pair[i], 1, row->executable.data, row->executable.size);
                sql_bind_blob(pair[i], 2, row->executable_digest.data, row->executable_digest.size);
        }
        return find_or_insert(pair[0], pair[1], ret, &is_new);
}

int dictionary_resolve(Dictionary *d, const Row *row, RowIds *ids, bool *ret_is_new_policy)
{
        int r = 0;

        *ret_is_new_policy = false;
        if (row->session)
                r = dictionary_enter_session(d, row->session, &ids->session);
        if (r >= 0 && row->policy)
                r = policy_id(d, row->policy, &ids->policy, ret_is_new_policy);
        if (r >= 0 && row->rule.name)
                r = rule_id(d, &row->rule, &ids->rule);
        if (r >= 0 && row->host)
                r = host_id(d, row->host, ids->session, &ids->host);
        if (r >= 0 && row->executable.data)
                r = executable_id(d, row, &ids->executable);
        return r;
}
