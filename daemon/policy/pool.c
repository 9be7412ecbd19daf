/* Networks whose addresses stand for names inside sessions: the daemon's, and what policies choose instead.
 */

#include "daemon/policy/model.h"

/* 10.0.2.15 is the session's own, as are the loopbacks; the rest a program could not connect to. */
static bool is_pool_usable(const PrivPrefix *p)
{
        static const struct {
                PrivAddress address;
                uint32_t length;
        } others[] = {
                { { .family = 4, .bytes = { 0 } }, 8 },
                { { .family = 4, .bytes = { 127 } }, 8 },
                { { .family = 4, .bytes = { 224 } }, 3 },
                { { .family = 4, .bytes = { 10, 0, 2, 15 } }, 32 },
                { { .family = 6, .bytes = { 0 } }, 8 },
                { { .family = 6, .bytes = { 0xfd, 0x00, 0x00, 0x5a } }, 32 },
                { { .family = 6, .bytes = { 0xfe, 0x80 } }, 9 },
                { { .family = 6, .bytes = { 0xff } }, 8 },
        };

        for (size_t i = 0; i < ELEMENTSOF(others); i++) {
                if (others[i].address.family != p->address.family)
                        continue;
                if (address_in_prefix(&others[i].address, &p->address, p->length) ||
                    address_in_prefix(&p->address, &others[i].address, others[i].length))
                        return false;
        }
        return true;
}

int schema_read_pool(SchemaReader *x, const TextNode *n, uint32_t family, PrivPrefix *to)
{
        uint32_t length_min = family == 4 ? 8 : 16, length_max = family == 4 ? 24 : 112;
        const char *message = NULL;
        PrivPrefix p;
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        if (rule_cidr_parse(n->string, &p.address, &p.length, &message) < 0)
                return schema_fail(x, n, "%s", message);
        if (p.address.family != family || p.length < length_min || p.length > length_max)
                return schema_fail(x, n, "expected an IPv%u network with a prefix of %u to %u bits", family,
                                   length_min, length_max);
        if (!is_pool_usable(&p))
                return schema_fail(x, n, "sessions use addresses of this network themselves");
        *to = p;
        return 0;
}

/* It opens nothing, but what is in it is no address for rules any more: not for what can only narrow. */
static int read_own_pool(SchemaReader *x, const TextNode *n, uint32_t family, PrivPrefix *to, uint32_t has)
{
        int r;

        if (x->policy->kind == POLICY_PROJECT || x->policy->kind == POLICY_CEILING)
                return schema_fail(
                                x, n,
                                "only a profile, the system layer and the user's own layer can choose it");
        r = schema_read_pool(x, n, family, to);
        if (r >= 0 && to->address.family == family)
                x->policy->has |= has;
        return r;
}

int schema_read_own_pool4(SchemaReader *x, const TextNode *n)
{
        return read_own_pool(x, n, 4, &x->policy->pool.v4, HAS_POOL4);
}

int schema_read_own_pool6(SchemaReader *x, const TextNode *n)
{
        return read_own_pool(x, n, 6, &x->policy->pool.v6, HAS_POOL6);
}

PrivPool policy_pool(const Policy *p)
{
        return p->pool;
}
