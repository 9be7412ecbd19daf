#pragma once

/*
 * HTTP/1.x heads and chunked bodies, apart from sockets. A head is first looked at byte by byte (line ends,
 * control characters, folding), then read by llhttp without any leniency, and both must have seen the same
 * lines. Nothing that a peer wrote is passed on as bytes: heads are written anew from what was understood.
 */

#include <llhttp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/egress/authority.h"
#include "proto/base/buf.h"
#include "proto/base/macro.h"

#define HTTP_HEAD_MAX    (64U * 1024U)
#define HTTP_FIELDS_MAX  256U
#define HTTP_TARGET_MAX  (14U * 1024U) /* a longer one would not fit into its audit row */
#define HTTP_METHOD_SIZE 32U

typedef struct HttpSlice {
        const char *data;
        size_t size;
} HttpSlice;

typedef struct HttpField {
        HttpSlice name;
        HttpSlice value; /* without surrounding white space */
} HttpField;

typedef enum HttpBody {
        HTTP_BODY_NONE = 0,
        HTTP_BODY_LENGTH,
        HTTP_BODY_CHUNKED,
        HTTP_BODY_UNTIL_CLOSE,
} HttpBody;

/* Slices point into the bytes that were parsed. */
typedef struct HttpHead {
        char method[HTTP_METHOD_SIZE]; /* of requests */
        HttpSlice target;              /* of requests */
        uint32_t status;               /* of responses */
        HttpSlice reason;              /* of responses */
        uint32_t minor;                /* HTTP/1.minor */
        HttpBody body;                 /* as the head says; a response to HEAD has none all the same */
        uint64_t length;               /* with HTTP_BODY_LENGTH */
        bool wants_close;
        size_t n_fields;
        HttpField fields[HTTP_FIELDS_MAX];
} HttpHead;

typedef struct HttpParser {
        llhttp_t llhttp;
        HttpHead *head; /* while http_parse_head() runs */
        Buf *to;        /* while http_read_chunks() runs */
        bool is_rechunked;
        bool is_done;
        size_t n_field_bytes; /* of trailers */
        size_t n_extension_bytes;
} HttpParser;

/* What an accepted request asks for. */
typedef struct HttpTarget {
        Authority authority;
        HttpSlice raw_host; /* authority as written */
        HttpSlice path;     /* as written, may be empty or begin with '?' */
        bool is_connect;
} HttpTarget;

/* Looks for the end of a head in what has arrived; *scanned (0 at first) is where to go on next time. 1:
 * *ret_size is the head's size; 0: not there yet; -EBADMSG: bytes that no head may have; -EMSGSIZE: too
 * long. */
int http_find_head(const char *data, size_t size, size_t *scanned, size_t *ret_size) _must_check_;

/* -EBADMSG when the first line has ended and is none of a request: what speaks another protocol is not
 * waited for. */
int http_check_first_line(const char *data, size_t size) _must_check_;

/* What do these first bytes begin? 1: a request line of HTTP/1; 0: more are needed to know; -EBADMSG:
 * something else. */
int http_look(const char *data, size_t size) _must_check_;

/* data is one whole head. -EBADMSG: malformed in any way. */
int http_parse_request(HttpParser *p, const char *data, size_t size, HttpHead *ret) _must_check_;
int http_parse_response(HttpParser *p, const char *data, size_t size, HttpHead *ret) _must_check_;

/* Where a request goes. tunnel: what CONNECT was allowed for; then the request is in origin form and must
 * name that host. NULL: absolute form and CONNECT only. ret->raw_host is set also on error. -EBADMSG:
 * malformed; -EPERM: a method that is never passed on. */
int http_judge_request(const HttpHead *h, const Authority *tunnel, HttpTarget *ret) _must_check_;

/* Decodes body bytes behind a head with HTTP_BODY_CHUNKED; what they hold goes to `to`, in chunks of ours or
 * plain. Trailers are dropped. 1: the body has ended, *ret_used bytes belonged to it; 0: all were used;
 * -EBADMSG. */
int http_read_chunks(HttpParser *p, const char *data, size_t size, Buf *to, bool is_rechunked,
                     size_t *ret_used) _must_check_;

/* Writes a head. Hop-by-hop, Proxy-*, and fields that Connection lists are left out. */
int http_put_request(Buf *to, const HttpHead *h, const HttpTarget *t) _must_check_;
int http_put_response(Buf *to, const HttpHead *h, HttpBody framing, bool is_closing) _must_check_;

/* Writes a head of http_put_request() anew: without fields that name another method or another path for
 * servers that heed them, and with the path as policy_path_rewrite() has it. */
int http_rewrite_request(Buf *head, bool for_methods, bool for_paths) _must_check_;

bool http_slice_equal(HttpSlice a, const char *s);
