#pragma once

/* The one-shot unprivileged child that asks NSS and parses settings: its whole standard output is the
 * result. */

#include "daemon/launcher/launcher.h"

/* error < 0: no result. data is valid during the call. */
typedef void (*LookupCallback)(void *userdata, int error, const void *data, size_t size);

#define LOOKUP_FDS_MAX 2U

typedef struct LookupQuestion {
        const char *what;              /* static */
        const char *argument;          /* NULL: none */
        int child_fds[LOOKUP_FDS_MAX]; /* become the child's 3, 4 */
        size_t n_child_fds;
        bool is_of_user; /* the child has the rights of uid and gid, not those of nobody */
        uint32_t uid;    /* 0: root's, without any capability: it drops them itself */
        uint32_t gid;
} LookupQuestion;

/* The callback comes once, later; lookup_free() before that kills the child. */
int lookup_new(Launcher *l, const LookupQuestion *question, LookupCallback callback, void *userdata,
               Lookup **ret) _must_check_;
Lookup *lookup_free(Lookup *k);
/* ---- identity.c ---- */

/* Whether this answer may be read, and is about that uid. */
bool lookup_identity_is_sound(const PrivIdentity *i, uint32_t uid);
