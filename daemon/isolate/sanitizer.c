#include "daemon/isolate/sanitizer.h"

#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#include <seccomp.h>
#include <stdbool.h>

#include "proto/base/macro.h"

/*
 * The runtime has its own allocator (mmap, munmap, madvise; no page of it is executable), its own locks
 * (futex, sched_yield) and its own stacks (sigaltstack, prlimit64), and names the process in a report
 * (getpid, gettid, readlink). None of these reaches beyond the process.
 */
const int sanitizer_syscalls[] = {
        SCMP_SYS(clock_gettime), SCMP_SYS(futex),       SCMP_SYS(getpid),       SCMP_SYS(gettid),
        SCMP_SYS(madvise),       SCMP_SYS(mmap),        SCMP_SYS(mprotect),     SCMP_SYS(munmap),
        SCMP_SYS(prlimit64),     SCMP_SYS(readlink),    SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),
        SCMP_SYS(sched_yield),   SCMP_SYS(sigaltstack),
};
const size_t sanitizer_n_syscalls = ELEMENTSOF(sanitizer_syscalls);

static bool is_confined;

/* The runtime asks. */
__attribute__((visibility("default"))) int __lsan_is_turned_off(void)
{
        return is_confined;
}

void sanitizer_prepare(void)
{
        __sanitizer_sandbox_on_notify(NULL);
        is_confined = true;
}
