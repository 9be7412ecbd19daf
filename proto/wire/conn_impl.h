#pragma once

/* What the files of the connection share; nobody else includes it. */

#include "proto/base/list.h"
#include "proto/wire/conn.h"

typedef struct FdGroup {
        ListLink link;
        uint64_t at; /* offset of the message's first byte */
        size_t size; /* of the message: what goes with its descriptors ends with it */
        int fds[CONN_FDS_MAX];
        size_t n_fds;
} FdGroup;

struct Conn {
        int fd;
        bool is_server;
        bool is_eof;

        Buf input;
        size_t scanned;        /* bytes of input known to hold no NUL */
        int fds[CONN_FDS_MAX]; /* of the message at the front of input, or of the next one */
        size_t n_fds;
        bool has_lost_fds;

        Buf output;
        uint64_t n_sent; /* bytes ever sent */
        ListLink groups;
        size_t n_groups;

        bool has_call;
        bool is_oneway;
        bool is_more;
};

/* Parses text and checks the header of a call (is_call) or reply. -EBADMSG: unsound; -E2BIG: too much. */
int conn_message_parse(bool is_call, const char *text, size_t size, ConnMessage *m) _must_check_;
void conn_drop_output(Conn *c);
