#pragma once

/* What the one-shot child can be asked; each answer is one struct of privsep.h. */

#include "proto/base/buf.h"
#include "proto/idl/privsep.h"

/* Of a uid that no database knows: user is the number, home "/nonexistent", gid the uid. */
int lookup_identity(uint32_t uid, PrivIdentity *ret) _must_check_;
/* -ENOENT: an account is missing; *ret_missing (static) is its name. */
int lookup_workers(PrivWorkerIds *ret, const char **ret_missing) _must_check_;

/* A question to the name services, with the place for its answer. */
typedef struct LookupCall {
        int (*ask)(const struct LookupCall *call);
        void *answer;
        size_t size;
        uint32_t uid;
        uint64_t deadline_usec; /* 0: that of a name service */
} LookupCall;

/* The same home by its real name: ~ may stand for a path with links in it, which no mount is made by. Stays
 * as it is where the way cannot be walked. */
int lookup_home(PrivIdentity *identity) _must_check_;

/* Asks in a process of its own. -ETIMEDOUT: no answer came in time. */
int lookup_in_child(const LookupCall *call) _must_check_;
/* Asks, and where no answer comes in time asks the machine's own files. What ask() returns. */
int lookup_within(const LookupCall *call) _must_check_;

/* The profiles of a bundle and a settings text (NULL: none) as one answer. running NULL: the daemon starts.
 * What is wrong with them is in the answer, and on standard error. */
int lookup_load(int bundle_fd, const char *settings, size_t size, const PrivSettings *running,
                PrivLoaded *ret) _must_check_;

/* "USEC:/WORKSPACE": what has changed there since, as entries (PrivReportEntry) to output_fd. */
int lookup_report(const char *argument, int output_fd) _must_check_;

/* The servers of a resolv.conf text; lines that say nothing of use are skipped. */
void lookup_servers(const char *text, size_t size, PrivResolver *ret);
/* A hosts text as canonical lines "ADDRESS NAME". */
int lookup_hosts(const char *text, size_t size, Buf *b) _must_check_;
