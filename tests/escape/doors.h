#pragma once

/* What the probes share: how a door that is open is told. */

#include <errno.h>
#include <stddef.h>
#include <sys/types.h>

#define ERRNO_ANY (-1)

typedef struct Probe {
        const char *id;
        void (*run)(void);
} Probe;

extern const Probe call_probes[], process_probes[];
extern const size_t n_call_probes, n_process_probes;

/* Whether one was found open, and what stood behind the id on the command line. */
extern int is_open;
extern const char *argument;

void door_open(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A call whose result must be -1 with one of two errors (ERRNO_ANY: with any). */
void must_fail(const char *what, long result, int wanted, int also);

#define DENIED(call) must_fail(#call, (long) (call), EPERM, EPERM)
#define ABSENT(call) must_fail(#call, (long) (call), ENOSYS, EPERM)
#define FAILS(call)  must_fail(#call, (long) (call), ERRNO_ANY, 0)

/* The exit status of a function in a child; 128 + number where a signal ended it. */
int in_child(void (*run)(void));

pid_t sleeping_child(void);
