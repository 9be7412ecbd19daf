#pragma once

/*
 * What a test and the programs under it share: a file beside the programs, mapped by each of them before its
 * main(). Confinement takes files and system calls away, not this. The layout is read by points.py.
 */

#include <stdint.h>

typedef enum FaultClass {
        FAULT_ALLOC = 0, /* memory */
        FAULT_OPEN,      /* a new descriptor, whatever it is of */
        FAULT_WRITE,     /* bytes to a file or a socket */
        FAULT_ACCEPT,
        FAULT_COMMIT, /* bytes to the disk */
        FAULT_SPAWN,  /* a new process */
        FAULT_STEP,   /* everything else: only a place to be killed at */
        _FAULT_CLASS_MAX,
} FaultClass;

typedef enum FaultAction {
        FAULT_COUNT = 0,
        FAULT_FAIL,
        FAULT_STOP, /* until somebody kills this process */
} FaultAction;

#define FAULT_PROGRAMS 16
#define FAULT_RUNGS    16384

/* How far a process of a ladder has come. */
typedef enum FaultRungState {
        FAULT_RUNG_NONE = 0,
        FAULT_RUNG_STARTED,
        FAULT_RUNG_FIRED,
        FAULT_RUNG_UP,     /* its call has failed, and it waits for work all the same */
        FAULT_RUNG_MISSED, /* it waits for work, and made fewer calls: starts differ by some */
} FaultRungState;

typedef struct FaultRung {
        int32_t pid; /* as the host sees it */
        uint32_t state;
        uint64_t caller;
} FaultRung;

typedef struct FaultPage {
        uint32_t target;  /* the program that is counted: its place in points.py's list, 0 for none */
        uint32_t classes; /* mask of FaultClass */
        uint32_t action;
        uint32_t at; /* the call that is hit, from 1 */
        uint32_t count;
        uint32_t fired;
        uint32_t is_stopped;
        int32_t pid;     /* of the stopped process as the host sees it; 0 in a child that it forked */
        int32_t own_pid; /* as it sees itself */
        uint32_t call;   /* the line of calls.def */
        uint64_t caller; /* where in the program, for addr2line */
        int64_t clock_skew_nsec; /* the clocks of launcher and api go ahead: pauses need not be waited for */
        int64_t live[FAULT_PROGRAMS]; /* allocations that are not freed */
        uint32_t counts[FAULT_PROGRAMS][_FAULT_CLASS_MAX];
        /* A ladder: each process of the target that starts takes the next call for its own, and counts for
         * itself. */
        uint32_t is_ladder;
        uint32_t next;
        uint32_t last;
        uint32_t stride;
        uint32_t up_count; /* calls of the latest one until it waited for work */
        FaultRung rungs[FAULT_RUNGS];
} FaultPage;
