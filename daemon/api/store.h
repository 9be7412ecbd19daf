#pragma once

/*
 * What must survive this worker, and the daemon: small files of JSON lines in STATE/api/UID, the later line
 * of a thing winning. A file is written whole under another name and renamed, or a line is added; nothing
 * waits for the disk, because what a crash of the machine takes along has ended with it.
 *
 * A last line without its newline was cut by such a crash and is left out. Any other fault is a damaged
 * file: it is said, set aside, and the worker goes on without it.
 */

#include "daemon/api/api.h"

#define STORE_FILE_MAX (8U * 1024U * 1024U)
#define STORE_NAME_MAX 64U

/* The worker's own folder; once, after it is confined. */
int store_open(Api *api, const char *path) _must_check_;

/* Puts one line into a buffer. */
int store_put(Buf *b, const Json *line) _must_check_;
/* Replaces the file by what the buffer holds. */
int store_write(const Api *api, const char *name, Buf *b) _must_check_;
/* After an error the file may end in half a line: write it whole. */
int store_append(const Api *api, const char *name, const Json *line) _must_check_;
void store_remove(const Api *api, const char *name);

/* Calls for each line, with its number from 0; a negative value of the callback is a damaged file, which is
 * set aside. -ENOENT: no such file. */
typedef int (*StoreLine)(void *userdata, size_t number, const Json *line);
int store_read(const Api *api, const char *name, StoreLine callback, void *userdata) _must_check_;

/* Names of all files. */
typedef void (*StoreVisit)(Api *api, const char *name);
int store_each(Api *api, StoreVisit visit) _must_check_;

/* ---- session_store.c ---- */

/* All of it, from now on kept up to date. */
void session_store(Session *s);
/* A session for a short while need not be there at once. */
void session_store_soon(Session *s);
void session_store_process(const Process *p);
void session_store_end(Session *s);
void session_store_remove(Session *s);

/* All that is stored: sessions that have ended go into the table, others wait to be adopted or given up. */
int sessions_load(Api *api) _must_check_;
/* The launcher has named all that live: what is left has ended while nobody looked. */
void sessions_settle(Api *api);

/* An array, and all in it is of one type. */
bool store_is_list(const Json *list, JsonType of);

/* Of a stored process, and the other way. */
int process_store(const Process *p, Json **ret) _must_check_;
int process_load(Session *s, const Json *line) _must_check_;
