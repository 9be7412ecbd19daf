#pragma once

/*
 * The C client of sandboxd: one connection, blocking calls, replies in the order of the calls. Not
 * thread-safe: one thread a connection. Errors are negative errno values; an error that the daemon answers
 * with is a reply with `error` set, not a failure of the call.
 *
 *      _cleanup_(sandboxd_client_freep) SandboxdClient *client = NULL;
 *      _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
 *
 *      r = sandboxd_connect(NULL, &client);
 *      r = sandboxd_call(client, "io.sandboxd.Manager.Describe", NULL, &reply);
 *      if (r >= 0 && !reply.error)
 *              version = json_string(json_get(reply.parameters, "version"));
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/macro.h"
#include "proto/wire/json.h"

#define SANDBOXD_ADDRESS_DEFAULT "unix:/run/sandboxd/io.sandboxd"
#define SANDBOXD_FDS_MAX         8U

typedef struct SandboxdClient SandboxdClient;

enum SandboxdFlags {
        SANDBOXD_MORE = 1 << 0,    /* several replies: has_more until the last one */
        SANDBOXD_ONEWAY = 1 << 1,  /* no reply at all */
        SANDBOXD_UPGRADE = 1 << 2, /* after the reply the connection carries bytes: sandboxd_take_fd() */
};

/* A reply. Everything in it lives until sandboxd_reply_done(), which closes the descriptors that nobody took
 * (TAKE_FD(reply.fds[i])). */
typedef struct SandboxdReply {
        const char *error;      /* full name such as io.sandboxd.Session.NoSuchSession; NULL: success */
        const Json *parameters; /* never NULL after a reply */
        bool has_more;
        int fds[SANDBOXD_FDS_MAX];
        size_t n_fds;
        Json *json; /* owns the strings above */
} SandboxdReply;

#define SANDBOXD_REPLY_INIT ((SandboxdReply){ .n_fds = 0 })

void sandboxd_reply_done(SandboxdReply *r);

/* address: "unix:/path" or "unix:@name"; NULL: SANDBOXD_ADDRESS of the environment, else the default.
 * -EPERM: who listens there is neither root nor the caller. */
int sandboxd_connect(const char *address, SandboxdClient **ret) _must_check_;
SandboxdClient *sandboxd_client_free(SandboxdClient *c);
DEFINE_CLEANUP(SandboxdClient *, sandboxd_client_free)

/* One call, one reply. parameters may be NULL. -ECONNRESET: the daemon closed the connection; -EBADMSG: what
 * it sent is not sound. The connection is of no use after an error. */
int sandboxd_call(SandboxdClient *c, const char *method, const Json *parameters,
                  SandboxdReply *ret) _must_check_;

/* The same with descriptors, which are borrowed: ...FileDescriptor fields hold their index. */
int sandboxd_call_fds(SandboxdClient *c, const char *method, const Json *parameters, const int *fds,
                      size_t n_fds, SandboxdReply *ret) _must_check_;

/* Sends a call; the replies are fetched with sandboxd_next() or sandboxd_try_next(). flags: enum
 * SandboxdFlags. */
int sandboxd_send(SandboxdClient *c, const char *method, const Json *parameters, unsigned flags,
                  const int *fds, size_t n_fds) _must_check_;

/* Waits for the next reply (or error reply) of the call that was sent. */
int sandboxd_next(SandboxdClient *c, SandboxdReply *ret) _must_check_;

/* For callers that poll sandboxd_fd() for input themselves: 1: *ret is a reply; 0: none yet. */
int sandboxd_try_next(SandboxdClient *c, SandboxdReply *ret) _must_check_;
int sandboxd_fd(const SandboxdClient *c);

/* After the reply of an upgraded call: the connection, blocking, the caller's from now on. Bytes that came
 * together with the reply are in *ret_early (NULL for none; the caller frees it). -EBADMSG: some came and
 * ret_early is NULL. */
int sandboxd_take_fd(SandboxdClient *c, char **ret_early, size_t *ret_n_early, int *ret_fd) _must_check_;
