#pragma once

/*
 * requestId of Spawn(), Create() and Exec(): the same call again, from whatever connection, finds what the
 * first one made. A request is pending from the first call until there is something to find (a session, a
 * command that runs); equal calls wait meanwhile. One whose call fails is forgotten, and the next of those
 * that wait tries itself. What is found is kept for a day, in the store, too.
 *
 * Ownership: the table owns requests. Of a pending one the open call, the session that is being made or the
 * command that is starting holds the pointer (one of them); afterwards its command, until that has ended.
 */

#include "daemon/api/api.h"

/* 128 characters, in UTF-8. */
#define REQUEST_ID_SIZE 513U
#define REQUEST_ID_MAX  128U
#define REQUESTS_MAX    8192U

struct Request {
        ListLink link;
        Api *api;
        char id[REQUEST_ID_SIZE];
        uint8_t digest[32]; /* of method and parameters */
        Id key;             /* what the launcher knows it by */
        uint64_t created_usec;
        bool is_spawn;
        bool is_pending;
        Id session;
        uint32_t process; /* 0: of Create() */
        Json *result;     /* of the command; NULL: not known yet */
        Process *command;
};

/* 1: go on, with c->request where the call has a requestId; 0: the client is answered or waits; negative
 * errno: failure. */
int request_begin(Client *c, const Json *parameters) _must_check_;
/* There is something to find. */
void request_made(Request *q, const Session *s, uint32_t process);
/* Its command is known from now on. */
void request_set_command(Request *q, Process *p);
void request_command_started(Process *p);
/* The command's result is known. */
void request_command_ended(Process *p);
/* The command is forgotten, or never ran. */
void request_command_gone(Process *p);
/* What was asked for will not come. NULL: nothing to do. */
Request *request_give_up(Request *q);

Request *request_find(Api *api, const char *id);
/* Pending, by the key that the launcher has handed back; NULL: none. */
Request *request_find_key(Api *api, const Id *key);

/* request_store.c */
int requests_load(Api *api) _must_check_;
int request_store_begin(Request *q) _must_check_;
void request_store_made(Request *q);
void request_store_result(Request *q);
void request_store_gone(Request *q);

/* The launcher has named all that live: what is pending without them is forgotten. */
void requests_settle(Api *api);
void requests_free(Api *api);
/* Into the table; of the table from now on. */
int request_add(Api *api, Request *take_q) _must_check_;
Request *request_free(Request *q);
