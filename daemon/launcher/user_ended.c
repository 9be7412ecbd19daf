/* Which sessions of a user have ended: administrators know them by their id alone. */

#include <stdlib.h>

#include "daemon/launcher/user.h"

/* As many as an api worker keeps at most. */
#define USER_ENDED_MAX 256U

void user_note_ended(User *u, const Id *session)
{
        if (!u->ended)
                u->ended = calloc(USER_ENDED_MAX, sizeof(*u->ended));
        if (u->ended)
                u->ended[u->n_ended++ % USER_ENDED_MAX] = *session;
}

bool user_has_ended(const User *u, const Id *session)
{
        for (size_t i = 0; i < MIN_OF(u->n_ended, (size_t) USER_ENDED_MAX); i++) {
                if (id_equal(&u->ended[i], session))
                        return true;
        }
        return false;
}
