/* Which of the user's groups a session keeps. The launcher looks whether the caller is in them. */

#include "daemon/api/context.h"
#include "proto/base/str.h"

static bool find_group(const PrivIdentity *who, const char *name, uint32_t *ret)
{
        for (uint32_t i = 0; i < who->n_groups; i++) {
                if (who->group_names[i][0] != '\0' && str_equal(who->group_names[i], name)) {
                        *ret = who->groups[i];
                        return true;
                }
        }
        return false;
}

/* In its place: the launcher takes them in ascending order, each once. */
static void insert(Session *s, uint32_t gid)
{
        uint32_t at = s->n_kept_groups;

        for (uint32_t i = 0; i < s->n_kept_groups; i++)
                if (s->kept_groups[i] == gid)
                        return;
        if (s->n_kept_groups >= PRIV_GROUPS_MAX)
                return;
        for (; at > 0 && s->kept_groups[at - 1] > gid; at--)
                s->kept_groups[at] = s->kept_groups[at - 1];
        s->kept_groups[at] = gid;
        s->n_kept_groups++;
}

void groups_take(Session *s, const Policy *p)
{
        const PrivIdentity *who = &s->api->start.identity;
        char text[PRIV_TEXT_SIZE];
        uint32_t gid;

        for (size_t i = 0; i < policy_n_groups(p); i++) {
                const char *name = policy_group(p, i);

                if (find_group(who, name, &gid) && gid != 0) {
                        if (gid != s->api->start.session_gid)
                                insert(s, gid);
                } else if (str_printf(text, sizeof(text), "%s: %s", name,
                                      "the caller is not in this group, or it is root's: not kept") >= 0) {
                        session_warn(s, "group-not-kept", text);
                }
        }
}
