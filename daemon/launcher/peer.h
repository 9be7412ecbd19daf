#pragma once

/* Who connected, from the kernel alone, at connect time. */

#include "daemon/launcher/launcher.h"

typedef struct Peer {
        uint32_t pid;
        uint32_t uid;
        uint32_t gid;
        uint32_t n_groups;
        uint32_t groups[PRIV_GROUPS_MAX];
        bool has_too_many_groups; /* more than fit: such a user's sessions are refused */
        bool is_admin;
        bool is_auditor;
} Peer;

/* Only the uid: cheap, for quotas. */
int peer_read_uid(int socket_fd, uint32_t *ret_uid) _must_check_;

/* 1: a process inside a session, which gets nothing. Errors: nobody that we can name, or it could not be
 * found out, which is the same to the caller. */
int peer_read(const Launcher *l, int socket_fd, Peer *ret) _must_check_;
