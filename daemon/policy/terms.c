#include "daemon/policy/terms.h"

#include "daemon/policy/url_path.h"
#include "proto/base/str.h"

static bool lists_method(const PolicyBlock *b, const BlockTerms *t, const char *method)
{
        const uint32_t *list = (const uint32_t *) block_table(b, b->lists) + t->first_method;

        for (uint32_t i = 0; i < t->n_methods; i++)
                if (str_equal(block_string(b, list[i]), method))
                        return true;
        return false;
}

/* 1: one of them matches; 0: none; -E2BIG: too dear to find out. */
static int matches_path(const PolicyBlock *b, const BlockTerms *t, PathView *path)
{
        const uint32_t *list = (const uint32_t *) block_table(b, b->lists) + t->first_path;
        int r = 0;

        for (uint32_t i = 0; r == 0 && i < t->n_paths; i++)
                r = url_path_match(block_string(b, list[i]), path->canonical, &path->steps);
        return r;
}

static bool path_fits(const PolicyBlock *b, const BlockTerms *t, bool is_denial, PathView *path)
{
        int r = path->canonical ? matches_path(b, t, path) : -1;

        if (r >= 0)
                return r > 0;
        path->is_blamed = path->is_blamed || !is_denial;
        return is_denial;
}

bool terms_apply(const PolicyBlock *b, const BlockRule *r, const PolicyRequest *q, PathView *path)
{
        const BlockTerms *t = terms_of(b, r);
        bool is_denial = r->verdict == VERDICT_DENY;
        /* Nobody will look at what goes over such a connection, or it is too early to tell. */
        bool fits_unknown = !is_denial || q->protocol == PROTOCOL_TCP;

        if ((t->flags & BLOCK_TERMS_METHODS) && !(q->method ? lists_method(b, t, q->method) : fits_unknown))
                return false;
        if (!(t->flags & BLOCK_TERMS_PATHS))
                return true;
        return path ? path_fits(b, t, is_denial, path) : fits_unknown;
}

static const char *const dns_type_names[] = { "TXT", "SRV", "MX", "CAA" };

const char *policy_dns_type_name(size_t i)
{
        return i < ELEMENTSOF(dns_type_names) ? dns_type_names[i] : NULL;
}

uint32_t policy_dns_type_from_string(const char *s)
{
        for (size_t i = 0; i < ELEMENTSOF(dns_type_names); i++)
                if (str_equal(dns_type_names[i], s))
                        return UINT32_C(1) << i;
        return 0;
}
