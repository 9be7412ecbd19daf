#pragma once

/* Persistent homes of sessions: STATE/homes/UID/KEY, behind directories that only root enters. */

#include "daemon/launcher/launcher.h"

/* STATE/homes, made where it is absent. */
int homes_open(int state_fd, int *ret_fd) _must_check_;

/* The home of that key, made where it is absent; *ret_fd: a directory of uid, O_PATH. 1: this uid has as
 * many as it may have, and this would be another. */
int home_open(const Launcher *l, uint32_t uid, uint32_t gid, const uint8_t key[PRIV_HOME_KEY_SIZE],
              int *ret_fd) _must_check_;
