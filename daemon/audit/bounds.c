#include "daemon/audit/bounds.h"

#include <errno.h>

int bounds_new(Session *s, const PolicyRequest *q, Bounds **ret)
{
        Bounds *b = calloc(1, sizeof(*b));

        if (!b)
                return -ENOMEM;
        b->session = s;
        policy_match_terms(s->policy, q, &b->terms);
        *ret = b;
        return 0;
}

void bounds_add(Bounds *b, const PolicyRequest *q, Protocol protocol)
{
        PolicyRequest other = *q;

        other.protocol = protocol;
        policy_match_terms(b->session->policy, &other, &b->terms);
}

static void release(Bounds *b)
{
        while (b->n_held > 0) {
                RuleCount *c = b->held[--b->n_held];

                if (--c->n > 0)
                        continue;
                (void) map_remove(&b->session->counts, &c->key, sizeof(c->key));
                free(c);
        }
}

Bounds *bounds_free(Bounds *b)
{
        if (!b)
                return NULL;
        release(b);
        free(b);
        return NULL;
}

static int count_of(Session *s, uint64_t key, RuleCount **ret)
{
        RuleCount *c = map_get(&s->counts, &key, sizeof(key));
        int r;

        if (!c) {
                c = calloc(1, sizeof(*c));
                if (!c)
                        return -ENOMEM;
                c->key = key;
                r = map_put(&s->counts, &c->key, sizeof(c->key), c);
                if (r < 0) {
                        free(c);
                        return r;
                }
        }
        *ret = c;
        return 0;
}

int bounds_count(Bounds *b, const PolicyCount **ret_limit)
{
        *ret_limit = NULL;
        if (b->terms.is_uncounted)
                return -EDQUOT;
        for (size_t i = 0; i < b->terms.n_counts; i++) {
                const PolicyCount *limit = &b->terms.counts[i];
                RuleCount *c;
                int r = count_of(b->session, limit->key, &c);

                if (r < 0)
                        return r;
                if (c->n >= limit->max) {
                        *ret_limit = limit;
                        release(b);
                        return -EDQUOT;
                }
                c->n++;
                b->held[b->n_held++] = c;
        }
        return 0;
}

void bounds_tell(const Bounds *b, PrivVerdict *v)
{
        v->allows_any_tls = v->allows_tls && !b->terms.needs_sni;
        v->has_methods = b->terms.has_methods;
        v->has_paths = b->terms.has_paths;
        v->max_upload_bytes = b->terms.max_upload_bytes;
        v->max_download_bytes = b->terms.max_download_bytes;
        v->idle_usec = b->terms.idle_usec;
}
