#pragma once

/*
 * A varlink connection, one end of it, without an event loop: bytes and descriptors in, calls or replies
 * out. The owner polls the descriptor and calls conn_read() and conn_write().
 *
 * Server side: one call is handled at a time; what is pipelined behind it waits in the input buffer, which
 * holds one message of the largest size, and then in the socket (back-pressure). Reading goes on that far so
 * that the end of the connection is noticed while a call is open. Limits: message 256 KiB without its NUL, 8
 * descriptors a message, output 1 MiB (also the longest reply that a client takes). A chunk that carries
 * descriptors must begin at a message boundary and hold the start of at most one message; MSG_CTRUNC: what
 * came is closed and the call answered with an error.
 */

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/buf.h"
#include "proto/wire/json.h"

#define CONN_MESSAGE_MAX (256U * 1024U)
#define CONN_OUTPUT_MAX  (1024U * 1024U)
#define CONN_FDS_MAX     8U

typedef struct Conn Conn;

/* A call as it came, or a reply. Strings and values live until conn_message_done(). */
typedef struct ConnMessage {
        Json *json;
        const char *method;     /* call */
        const char *error;      /* reply: NULL for none */
        const Json *parameters; /* never NULL: an empty object where there were none */
        bool is_oneway;
        bool is_more;
        bool is_upgrade;
        bool has_continues; /* reply */
        bool has_lost_fds;  /* MSG_CTRUNC: answer with an error */
        int fds[CONN_FDS_MAX];
        size_t n_fds;
} ConnMessage;

void conn_message_done(ConnMessage *m);

/* Takes the descriptor, also on error; it becomes non-blocking. */
int conn_new(int take_fd, bool is_server, Conn **ret) _must_check_;
Conn *conn_free(Conn *c);
DEFINE_CLEANUP(Conn *, conn_free)
int conn_fd(const Conn *c);

/* Reads what is there (one recvmsg). -EPIPE: end of file (half-closed peers are still answered while output
 * drains, and conn_next() still yields what came whole); -ECONNRESET: the peer is gone and reads no more
 * either; -EBADMSG: unsound, close. 0: nothing new; 1: bytes came. */
int conn_read(Conn *c) _must_check_;

/* False after the end of file and while the input buffer is full: then do not poll for input. */
bool conn_wants_read(const Conn *c);

/* The next whole message: 1, or 0 if there is none yet; -EBADMSG: close. *ret is the caller's to finish with
 * conn_message_done(). Server: no second message before conn_call_done() of the first. */
int conn_next(Conn *c, ConnMessage *ret) _must_check_;

/* True while a message is begun and not complete: the owner's time-out for slow writers. */
bool conn_has_partial(const Conn *c);

/* True while bytes were read that belong to no message handed out. */
bool conn_has_input(const Conn *c);

/* True while a whole message waits for conn_next(). */
bool conn_has_message(const Conn *c);

/* ---- server ---- */

/* Sends a reply of the open call; parameters may be NULL. With has_continues the call stays open, and it
 * must have asked for more. Nothing is sent for a oneway call. fds are borrowed (duplicated). -ENOBUFS: the
 * peer does not read: close. */
int conn_reply(Conn *c, const Json *parameters, bool has_continues, const int *fds,
               size_t n_fds) _must_check_;
int conn_reply_error(Conn *c, const char *error, const Json *parameters) _must_check_;

/* The open call is answered (conn_reply and conn_reply_error do it for the last reply). */
void conn_call_done(Conn *c);
bool conn_has_call(const Conn *c);

/* ---- client ---- */

enum ConnFlags {
        CONN_MORE = 1 << 0,
        CONN_ONEWAY = 1 << 1,
        CONN_UPGRADE = 1 << 2,
};

/* At most one flag; parameters may be NULL; fds are borrowed. */
int conn_call(Conn *c, const char *method, const Json *parameters, unsigned flags, const int *fds,
              size_t n_fds) _must_check_;

/* After the reply to an upgraded call: the bytes that came behind it, and the descriptor, which the caller
 * owns from now on (the connection is then of no further use). */
int conn_take_fd(Conn *c);
Buf *conn_input(Conn *c);

/* ---- output ---- */

bool conn_wants_write(const Conn *c);
/* Bytes ever sent. */
uint64_t conn_n_sent(const Conn *c);
/* Bytes of memory that input and output take; empty buffers are given back. */
size_t conn_memory(Conn *c);
/* Sends what it can. 0, or -EPIPE and the like. */
int conn_write(Conn *c) _must_check_;
