#pragma once

/*
 * The thin layer over SQLite: all text of statements is constant, all values are bound. Nothing else of the
 * process includes sqlite3.h.
 *
 * Errors: -ENOSPC disk full, -EIO, -EBADMSG corrupt, -EBUSY, -ETIMEDOUT deadline, -EINVAL a value that the
 * schema does not take.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/macro.h"

typedef struct Sql Sql;
typedef struct SqlStatement SqlStatement;

typedef enum SqlMode {
        SQL_CREATE = 0, /* must not exist yet */
        SQL_WRITE,
        SQL_READ, /* query_only */
} SqlMode;

int sql_open(const char *path, SqlMode mode, Sql **ret) _must_check_;
Sql *sql_close(Sql *s);
DEFINE_CLEANUP(Sql *, sql_close)

/* Statements without values or results. */
int sql_execute(Sql *s, const char *text) _must_check_;

/* A statement that has not ended at this time of CLOCK_MONOTONIC fails with -ETIMEDOUT; 0: none. */
void sql_set_deadline(Sql *s, uint64_t deadline_usec);

bool sql_in_transaction(const Sql *s);

/* Pages in the write-ahead log after the last commit. */
int sql_wal_pages(const Sql *s);

/* Makes the log's file some megabytes long where there is room, and keeps them in memory; commits then
 * overwrite. Failing costs only time. */
void sql_reserve_log(Sql *s);

/* Moves the log into the database; the last time it is cut to nothing, else its file is used again. -EBUSY:
 * a reader is in the way. */
int sql_checkpoint(Sql *s, bool is_last) _must_check_;

/* quick_check: -EBADMSG where it finds something. */
int sql_check(Sql *s) _must_check_;

/* The same with indexes and constraints (integrity_check): takes seconds for a full segment. */
int sql_check_all(Sql *s) _must_check_;

int sql_prepare(Sql *s, const char *text, SqlStatement **ret) _must_check_;
SqlStatement *sql_finalize(SqlStatement *t);
DEFINE_CLEANUP(SqlStatement *, sql_finalize)

/* Parameters count from 1; NULL data is SQL's null. The data must live until the next reset. Errors come out
 * of sql_step(). */
void sql_bind_integer(SqlStatement *t, int i, int64_t v);
void sql_bind_null(SqlStatement *t, int i);
void sql_bind_text(SqlStatement *t, int i, const char *v);
void sql_bind_blob(SqlStatement *t, int i, const void *data, size_t size);

/* As sql_bind_integer(), with null for negative values. */
void sql_bind_number(SqlStatement *t, int i, int64_t v);

/* 1: a row; 0: the end, and the statement is reset. Errors reset as well. */
int sql_step(SqlStatement *t) _must_check_;
void sql_reset(SqlStatement *t);

/* For statements without rows. */
int sql_run(SqlStatement *t) _must_check_;
int64_t sql_last_id(const SqlStatement *t);

/* Columns count from 0; pointers are valid until the next step or reset. */
bool sql_is_null(const SqlStatement *t, int i);
int64_t sql_integer(const SqlStatement *t, int i);

/* As sql_integer(), with -1 for null. */
int64_t sql_number(const SqlStatement *t, int i);

/* NULL for null; NUL-terminated. */
const char *sql_text(const SqlStatement *t, int i);

/* NULL for null; an empty value is not NULL. */
const void *sql_blob(const SqlStatement *t, int i, size_t *ret_size);
