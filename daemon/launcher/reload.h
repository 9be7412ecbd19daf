#pragma once

/*
 * Settings and profiles anew, all or nothing: a child reads and checks everything, audit commits the row,
 * and only then it counts. Whatever fails on the way leaves what was. One after the other: who asks
 * meanwhile gets a reading of their own.
 */

#include "daemon/launcher/user.h"

int reload_new(Launcher *l) _must_check_;
void reload_free(Launcher *l);

/* On behalf of a caller who may; > 0: MANAGER_ANSWER comes later. -EBUSY: too many wait. */
int reload_ask(User *u, uint64_t token) _must_check_;
/* SIGHUP: for root. */
void reload_signal(Launcher *l);

/* This user's worker has ended: its successor's calls are others. What was begun goes on. */
void reload_forget(const User *u);

/* Somebody who may not: a row. */
void reload_refuse(User *u);

/* From audit: the row is committed, or why not. */
int reload_on_recorded(Launcher *l, const PrivRecorded *body) _must_check_;
void reload_on_audit_gone(Launcher *l);
void reload_on_audit_ready(Launcher *l);
