#pragma once

/*
 * What the launcher asks of the kernel, without one: its workers and inits are records whose channel the
 * target holds, its control groups and namespaces are descriptors of /dev/null. Takes the place of
 * daemon/isolate, and of the launcher's own lookup, listen and setup.
 */

#include "daemon/launcher/launcher.h"

typedef struct FakeProcess {
        Program program;
        uint32_t uid; /* api: of the user that it serves */
        int channel_fd;
        int state_fd; /* readable once it is dead */
        int pidfd;    /* the launcher's copy of it; a number only */
        bool is_alive;
        bool is_reaped;
        uint64_t received; /* messages that the target sent on the channel */
} FakeProcess;

#define FAKE_PROCESSES_MAX 64U

extern FakeProcess fake_processes[FAKE_PROCESSES_MAX];
extern unsigned fake_n_processes;

/* The next so many calls into the kernel succeed, then one fails; 0: all succeed. */
extern unsigned fake_fail_in;

void fake_kernel_init(Kernel *k);
void fake_kernel_done(Kernel *k);

/* Dies as from a signal: its channel closes, its pidfd becomes readable. */
void fake_process_kill(FakeProcess *p);

/* All gone, whatever they are. */
void fake_processes_done(bool is_orderly);

/* The first lookup that waits is answered: with this identity, or not at all (NULL). */
bool fake_lookup_answer(const PrivIdentity *identity);
uint32_t fake_lookup_uid(void);
