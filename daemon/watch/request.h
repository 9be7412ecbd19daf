#pragma once

/*
 * The FUSE protocol, as far as masks need it: requests of the kernel, with names that a session's program
 * chose, and what is answered. Nothing here has any content to give.
 *
 * The root has a node for each mount of a plan, "d" or "f" with its number; only these are ever bound into a
 * session.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/idl/privsep.h"

/* What the kernel wants to be given room for, at least. */
#define REQUEST_SIZE_MAX 16384U
#define REPLY_SIZE_MAX   256U

typedef enum RequestKind {
        REQUEST_SILENT = 0, /* expects no answer */
        REQUEST_INIT,
        REQUEST_HARMLESS,    /* answered alike whoever asks */
        REQUEST_ROOT_LOOKUP, /* of a node, by whoever makes the session */
        REQUEST_ATTEMPT,     /* on a node: operation */
} RequestKind;

typedef struct Request {
        RequestKind kind;
        PrivFileOperation operation;
        uint64_t unique;
        uint64_t node;
        uint32_t opcode;
        uint32_t uid;
        uint32_t pid;   /* a thread's */
        uint32_t major; /* of INIT, as the next two */
        uint32_t minor;
        uint32_t flags;
        const char *name; /* with its NUL; NULL: none */
        size_t n_name;
} Request;

/* -EPROTO: no kernel says that. The name lies in data. */
int request_parse(const void *data, size_t size, Request *ret) _must_check_;

/* The mount of the plan that a node stands for: its number; -1: none. */
int request_mount_of(uint64_t node);

/* is_quiet: of a node that looks empty. Bytes of the answer; 0: none is expected. */
size_t request_answer(const Request *q, bool is_quiet, char to[REPLY_SIZE_MAX]);
