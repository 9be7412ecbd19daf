#pragma once

/*
 * What administrators (root, group sandboxd-admins) do to others' sessions. Who is one is read from the peer
 * of the connection that the api worker names: it must be live, and that worker's. The end of sessions is
 * the launcher's own doing; everything else it leaves to the owner's worker, to which it passes one end of a
 * fresh pair as a client of that owner, marked as an administrator's.
 */

#include "daemon/launcher/session.h"

/* From api; < 0: it broke a rule. */
int admin_open(User *u, const PrivAdminOpen *body) _must_check_;
int admin_terminate(User *u, const PrivAdminTerminate *body) _must_check_;
int admin_on_stopping(const User *u, const PrivSessionRef *body) _must_check_;

/* Its processes are gone: whoever waits for its end is answered. */
void admin_session_over(const Session *s);
/* Somebody waits for the end of all that this user has: what would start meanwhile is none of it. */
bool admin_is_ending(const User *u);
/* The api worker of this user waits no more. */
void admin_forget(const User *u);
