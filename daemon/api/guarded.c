/* What a session's guard did about protected paths, as its init tells: warnings of the session. */

#include <errno.h>

#include "daemon/api/session.h"
#include "proto/base/str.h"

static const char *const codes[] = {
        [GUARD_COVERED] = "protected-path-replaced", [GUARD_REMOVED] = "protected-path-refused",
        [GUARD_MOVED] = "protected-path-refused",    [GUARD_LEFT] = "protected-path-left",
        [GUARD_BEYOND] = "protected-path-left",
};
ASSERT_TABLE(codes, _GUARD_NOTE_MAX);

static const char *const messages[] = {
        [GUARD_COVERED] = "was made or replaced outside of the session and is read-only inside from here on",
        [GUARD_REMOVED] = "is protected: what the session made there was removed",
        [GUARD_MOVED] = "is protected: what the session put there was renamed to NAME.refused-...",
        [GUARD_LEFT] = "is protected, and what the session put there could not be removed: look at it before you use it",
        [GUARD_BEYOND] = "has directories further down than is looked: what is protected there is not",
};
ASSERT_TABLE(messages, _GUARD_NOTE_MAX);

/* The other warnings of a session are kept for what stays: nobody can drown that in harmless ones. */
#define GUARDED_WARNINGS_MAX 40U

int session_on_guarded(Session *s, const PrivGuarded *m)
{
        char text[PRIV_TEXT_SIZE * 4];

        if (m->note >= _GUARD_NOTE_MAX || m->error != 0 || !PRIV_STRING_OK(m->path))
                return -EPROTO;
        if (m->note < GUARD_LEFT && json_n(s->warnings) >= GUARDED_WARNINGS_MAX)
                return 0;
        if (str_printf(text, sizeof(text), "%s %s", m->path, messages[m->note]) >= 0)
                session_warn(s, codes[m->note], text);
        return 0;
}
