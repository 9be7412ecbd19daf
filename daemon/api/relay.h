#pragma once

/* What relay.c and relay_stream.c share. */

#include "daemon/api/api.h"

#define RELAY_ROOM (64U * 1024U)

/* Bytes one way. */
typedef struct RelayWay {
        int from;
        int to;
        size_t begin;
        size_t end;
        bool is_eof;
        bool is_shut;
        char data[RELAY_ROOM];
} RelayWay;

/* After an upgrade: bytes as they are, both ways, between the client and the other worker. */
typedef struct RelayStream {
        Client *client;
        RelayWay ways[2]; /* from the client, from the worker */
        LoopIo *ios[2];
        LoopTimer *timer; /* runs once the client has no more input: only a look shows that it is gone */
} RelayStream;

/* other: the connection to the worker, borrowed; what it has read behind its reply goes first. */
int relay_stream_new(Client *c, Conn *other, RelayStream **ret) _must_check_;
RelayStream *relay_stream_free(RelayStream *s);
