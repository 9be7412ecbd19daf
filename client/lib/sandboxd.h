#pragma once

/*
 * libsandboxd, the C client of sandboxd: one connection, blocking calls, replies in the order of the calls.
 * Compile with `pkg-config --cflags --libs libsandboxd`; libsandboxd(3) is the manual.
 *
 * Errors: functions that return int return 0 (or what their comment says) or a negative errno value. An
 * error that the daemon answers with is a reply with `error` set, not a failure of the call.
 *
 * Ownership: what is called take_x belongs to the function from the call on, also when it fails. Other
 * parameters are borrowed. Results (ret_x, *ret) are set on success only. Pointers that functions return are
 * borrowed from the value that they were got from.
 *
 * Threads: a connection and the values that came from it belong to one thread at a time; two connections are
 * independent of each other. The library has no global state, installs no signal handlers and raises no
 * SIGPIPE; all its descriptors are close-on-exec.
 *
 *      SandboxdClient *client;
 *      SandboxdReply reply = SANDBOXD_REPLY_INIT;
 *
 *      r = sandboxd_connect(NULL, &client);
 *      if (r >= 0)
 *              r = sandboxd_call(client, "io.sandboxd.Manager.Describe", NULL, &reply);
 *      if (r >= 0 && !reply.error)
 *              puts(sandboxd_value_string(sandboxd_value_get(reply.parameters, "version")));
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

#define SANDBOXD_MUST_CHECK __attribute__((__warn_unused_result__))

/* Where the daemon listens unless told otherwise. */
#define SANDBOXD_ADDRESS_DEFAULT "unix:/run/sandboxd/io.sandboxd"
/* Descriptors that go with one call or come with one reply, at most. */
#define SANDBOXD_FDS_MAX 8U

/* A connection to the daemon. */
typedef struct SandboxdClient SandboxdClient;
/* A value as JSON knows it: parameters of calls and replies. Reference counted. */
typedef struct SandboxdValue SandboxdValue;

enum SandboxdFlags {
        SANDBOXD_MORE = 1 << 0,    /* several replies: has_more until the last one */
        SANDBOXD_ONEWAY = 1 << 1,  /* no reply at all */
        SANDBOXD_UPGRADE = 1 << 2, /* after the reply the connection carries bytes: sandboxd_take_fd() */
};

/* A reply. Everything in it lives until sandboxd_reply_done(), which closes the descriptors that nobody took
 * (by copying a number and putting -1 in its place). */
typedef struct SandboxdReply {
        const char *error; /* full name such as "io.sandboxd.Session.NoSuchSession"; NULL: success */
        const SandboxdValue *parameters; /* an object, never NULL after a reply; of an error: its details */
        bool has_more;                   /* another reply of the same call follows */
        int fds[SANDBOXD_FDS_MAX];       /* ...FileDescriptor fields are indexes into it */
        size_t n_fds;
        SandboxdValue *json; /* owns error and parameters */
} SandboxdReply;

#ifdef __cplusplus
#define SANDBOXD_REPLY_INIT (SandboxdReply())
#else
#define SANDBOXD_REPLY_INIT ((SandboxdReply){ .n_fds = 0 })
#endif

/* Gives back what the reply owns; it may be used again. */
void sandboxd_reply_done(SandboxdReply *r);

/* ---- connections ---- */

/* address: "unix:/path"; NULL: SANDBOXD_ADDRESS of the environment (not in set-uid programs), else the
 * default. -EPERM: the socket is not root's or who listens there is not root, so nothing was sent; -ENOENT
 * and -ECONNREFUSED: no daemon there; -EINVAL, -ENAMETOOLONG: no such address. */
int sandboxd_connect(const char *address, SandboxdClient **ret) SANDBOXD_MUST_CHECK;
/* Closes the connection; what the daemon does for it ends. c may be NULL. Returns NULL. */
SandboxdClient *sandboxd_client_free(SandboxdClient *c);
/* How long a function may wait for the daemon before it fails with -ETIMEDOUT. 0, as at first: for ever. */
void sandboxd_set_timeout(SandboxdClient *c, uint64_t timeout_usec);

/* One call, one reply. parameters: an object, or NULL for none. -ECONNRESET: the daemon closed the
 * connection; -EBADMSG: what it sent is not sound; -EMFILE: its descriptors found no place. The connection
 * is of no use after an error. */
int sandboxd_call(SandboxdClient *c, const char *method, const SandboxdValue *parameters,
                  SandboxdReply *ret) SANDBOXD_MUST_CHECK;

/* The same with descriptors, which are borrowed: ...FileDescriptor fields hold their index. -EINVAL: more
 * than SANDBOXD_FDS_MAX. */
int sandboxd_call_fds(SandboxdClient *c, const char *method, const SandboxdValue *parameters, const int *fds,
                      size_t n_fds, SandboxdReply *ret) SANDBOXD_MUST_CHECK;

/* Sends a call; its replies are fetched with sandboxd_next() or sandboxd_try_next(), those of several calls
 * in the order of the calls. flags: at most one of enum SandboxdFlags. -EBUSY: 64 calls wait for replies. */
int sandboxd_send(SandboxdClient *c, const char *method, const SandboxdValue *parameters, unsigned flags,
                  const int *fds, size_t n_fds) SANDBOXD_MUST_CHECK;

/* Waits for the next reply (or error reply) of the call that was sent. */
int sandboxd_next(SandboxdClient *c, SandboxdReply *ret) SANDBOXD_MUST_CHECK;

/* For callers that poll sandboxd_fd() for input themselves: 1: *ret is a reply; 0: none yet. Never waits;
 * call it until it says 0 before polling again. */
int sandboxd_try_next(SandboxdClient *c, SandboxdReply *ret) SANDBOXD_MUST_CHECK;
/* For poll() alone; it stays the connection's. */
int sandboxd_fd(const SandboxdClient *c);

/* After the reply of an upgraded call: the connection's descriptor, blocking, the caller's from now on (free
 * the client all the same). Bytes that came together with the reply are in *ret_early (NULL for none; free()
 * it). -EBADMSG: some came and ret_early is NULL. */
int sandboxd_take_fd(SandboxdClient *c, char **ret_early, size_t *ret_n_early,
                     int *ret_fd) SANDBOXD_MUST_CHECK;

/* ---- reading values; NULL is taken as a value that is absent ---- */

typedef enum SandboxdType {
        SANDBOXD_NULL = 0, /* also of what is absent */
        SANDBOXD_BOOLEAN,
        SANDBOXD_INTEGER,
        SANDBOXD_REAL,
        SANDBOXD_STRING,
        SANDBOXD_ARRAY,
        SANDBOXD_OBJECT,
} SandboxdType;

SandboxdType sandboxd_value_type(const SandboxdValue *v);

/* Nothing is converted: false, 0, 0.0, NULL for a value of another type (integers are also real). Strings
 * are UTF-8 without a NUL inside. */
bool sandboxd_value_boolean(const SandboxdValue *v);
int64_t sandboxd_value_integer(const SandboxdValue *v);
double sandboxd_value_real(const SandboxdValue *v);
const char *sandboxd_value_string(const SandboxdValue *v);

/* Elements of an array, members of an object; else 0. */
size_t sandboxd_value_size(const SandboxdValue *v);
/* NULL: no such element, no such member. */
const SandboxdValue *sandboxd_value_at(const SandboxdValue *array, size_t i);
const SandboxdValue *sandboxd_value_get(const SandboxdValue *object, const char *key);
/* Members in order of appearance; *cursor starts as NULL. False after the last. */
bool sandboxd_value_next(const SandboxdValue *object, void **cursor, const char **ret_key,
                         const SandboxdValue **ret_value);

/* One line of JSON; the caller frees it with free(). */
int sandboxd_value_format(const SandboxdValue *v, char **ret) SANDBOXD_MUST_CHECK;

/* ---- making values ---- */

int sandboxd_value_new_object(SandboxdValue **ret) SANDBOXD_MUST_CHECK;
int sandboxd_value_new_array(SandboxdValue **ret) SANDBOXD_MUST_CHECK;
/* An object from JSON text. -EBADMSG: not JSON, not an object, or a key stands twice; -E2BIG: more than the
 * daemon takes. */
int sandboxd_value_parse(const char *text, SandboxdValue **ret) SANDBOXD_MUST_CHECK;

/* Adds or replaces a member. -EINVAL: not an object. A string that is not UTF-8 is sent escaped (\xff);
 * NULL for a string sets nothing. */
int sandboxd_value_set(SandboxdValue *object, const char *key,
                       SandboxdValue *take_value) SANDBOXD_MUST_CHECK;
int sandboxd_value_set_string(SandboxdValue *object, const char *key, const char *value) SANDBOXD_MUST_CHECK;
int sandboxd_value_set_integer(SandboxdValue *object, const char *key, int64_t value) SANDBOXD_MUST_CHECK;
int sandboxd_value_set_boolean(SandboxdValue *object, const char *key, bool value) SANDBOXD_MUST_CHECK;

/* Adds an element. -EINVAL: not an array. */
int sandboxd_value_append(SandboxdValue *array, SandboxdValue *take_value) SANDBOXD_MUST_CHECK;
int sandboxd_value_append_string(SandboxdValue *array, const char *value) SANDBOXD_MUST_CHECK;
int sandboxd_value_append_integer(SandboxdValue *array, int64_t value) SANDBOXD_MUST_CHECK;

/* One more reference, so that a value outlives the reply or goes into another one; v may be NULL. */
SandboxdValue *sandboxd_value_ref(const SandboxdValue *v);
/* Gives a reference back; v may be NULL. Returns NULL. */
SandboxdValue *sandboxd_value_unref(SandboxdValue *v);

#pragma GCC visibility pop

/* For __attribute__((cleanup)) of gcc and clang. */
static inline void sandboxd_client_freep(SandboxdClient **c)
{
        *c = sandboxd_client_free(*c);
}

static inline void sandboxd_value_unrefp(SandboxdValue **v)
{
        *v = sandboxd_value_unref(*v);
}

#ifdef __cplusplus
}
#endif
