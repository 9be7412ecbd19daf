#pragma once

/* The workers that serve all users: audit, dialer, and the pool of egress workers that are nobody's yet. */

#include "daemon/launcher/launcher.h"

int service_start(Launcher *l) _must_check_;

/* Both singletons run: sessions may start and egress workers may be attached. */
bool service_is_up(const Launcher *l);
bool service_pool_is_full(const Launcher *l);

/* A ready egress worker, the caller's from now on; NULL: none now, service_egress_ready() follows. */
Worker *service_take_egress(Launcher *l);

/* Fills the pool after a pause, whose microseconds it returns; sessions that wait for a worker get one then.
 */
uint64_t service_pause_pool(Launcher *l);

/* A row without a session. */
void service_report(Launcher *l, uint32_t kind, uint32_t uid, bool is_denial, const char *action,
                    const char *detail);

/* An administrator does something to somebody else's session (NULL: looks which there are). */
void service_report_act(Launcher *l, uint32_t uid, const Id *session, const char *method,
                        const char *detail);

/* A user reached a quota; detail: JSON. */
void service_report_limit(Launcher *l, uint32_t uid, const char *quota, const char *detail);

/* The same, worded by a user's api worker: -EPROTO where it says what it may not. */
int service_report_of_user(Launcher *l, uint32_t uid, const PrivReport *claim) _must_check_;
