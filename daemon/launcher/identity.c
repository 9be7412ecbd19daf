/* What the child that asks the name service says of a user. */

#include "daemon/launcher/lookup.h"

static bool group_names_are_sound(const PrivIdentity *i)
{
        for (size_t n = 0; n < ELEMENTSOF(i->group_names); n++) {
                if (!PRIV_STRING_OK(i->group_names[n]))
                        return false;
        }
        return true;
}

bool lookup_identity_is_sound(const PrivIdentity *i, uint32_t uid)
{
        return i->uid == uid && i->n_groups <= PRIV_GROUPS_MAX && group_names_are_sound(i) &&
               PRIV_STRING_OK(i->user) && PRIV_STRING_OK(i->group) && PRIV_STRING_OK(i->home) &&
               PRIV_STRING_OK(i->shell);
}
