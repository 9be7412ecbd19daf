#pragma once

/* The system calls of a session by name; filter.c looks at the arguments of some. */

/* What ordinary programs need. Absent, and so ENOSYS: io_uring, the newer mount calls (open_tree, fsopen and
 * so on), openat2 and fchmodat2 (their modes lie behind pointers or beyond this list), and whatever is newer
 * than it. */
/* clang-format off */
static const char *const filter_allowed[] = {
        "read", "write", "open", "close", "stat", "fstat", "lstat", "poll", "lseek", "mmap", "mprotect",
        "munmap", "brk", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "ioctl", "pread64",
        "pwrite64", "readv", "writev", "access", "pipe", "select", "sched_yield", "mremap", "msync",
        "mincore", "madvise", "shmget", "shmat", "shmctl", "dup", "dup2", "pause", "nanosleep",
        "getitimer", "alarm", "setitimer", "getpid", "sendfile", "socket", "connect", "accept",
        "sendto", "recvfrom", "sendmsg", "recvmsg", "shutdown", "bind", "listen", "getsockname",
        "getpeername", "socketpair", "setsockopt", "getsockopt", "clone", "clone3", "fork", "vfork",
        "execve", "exit", "wait4", "kill", "uname", "semget", "semop", "semctl", "shmdt", "msgget",
        "msgsnd", "msgrcv", "msgctl", "fcntl", "flock", "fsync", "fdatasync", "truncate", "ftruncate",
        "getdents", "getcwd", "chdir", "fchdir", "rename", "mkdir", "rmdir", "creat", "link", "unlink",
        "symlink", "readlink", "chmod", "fchmod", "chown", "fchown", "lchown", "umask", "gettimeofday",
        "getrlimit", "getrusage", "sysinfo", "times", "getuid", "getgid", "setuid", "setgid", "geteuid",
        "getegid", "setpgid", "getppid", "getpgrp", "setsid", "setreuid", "setregid", "getgroups",
        "setgroups", "setresuid", "getresuid", "setresgid", "getresgid", "getpgid", "setfsuid",
        "setfsgid", "getsid", "capget", "capset", "rt_sigpending", "rt_sigtimedwait", "rt_sigqueueinfo",
        "rt_sigsuspend", "sigaltstack", "utime", "mknod", "personality", "statfs", "fstatfs",
        "getpriority", "setpriority", "sched_setparam", "sched_getparam", "sched_setscheduler",
        "sched_getscheduler", "sched_get_priority_max", "sched_get_priority_min",
        "sched_rr_get_interval", "mlock", "munlock", "mlockall", "munlockall", "prctl", "arch_prctl",
        "setrlimit", "sync", "gettid", "readahead", "setxattr", "lsetxattr", "fsetxattr", "getxattr",
        "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr", "removexattr",
        "lremovexattr", "fremovexattr", "tkill", "time", "futex", "sched_setaffinity",
        "sched_getaffinity", "io_setup", "io_destroy", "io_getevents", "io_submit", "io_cancel",
        "epoll_create", "remap_file_pages", "getdents64", "set_tid_address", "restart_syscall",
        "semtimedop", "fadvise64", "timer_create", "timer_settime", "timer_gettime", "timer_getoverrun",
        "timer_delete", "clock_gettime", "clock_getres", "clock_nanosleep", "exit_group", "epoll_wait",
        "epoll_ctl", "tgkill", "utimes", "mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive",
        "mq_notify", "mq_getsetattr", "waitid", "ioprio_set", "ioprio_get", "inotify_init",
        "inotify_add_watch", "inotify_rm_watch", "openat", "mkdirat", "mknodat", "fchownat",
        "futimesat", "newfstatat", "unlinkat", "renameat", "linkat", "symlinkat", "readlinkat",
        "fchmodat", "faccessat", "pselect6", "ppoll", "set_robust_list", "get_robust_list", "splice",
        "tee", "sync_file_range", "vmsplice", "utimensat", "epoll_pwait", "signalfd", "timerfd_create",
        "eventfd", "fallocate", "timerfd_settime", "timerfd_gettime", "accept4", "signalfd4",
        "eventfd2", "epoll_create1", "dup3", "pipe2", "inotify_init1", "preadv", "pwritev",
        "rt_tgsigqueueinfo", "recvmmsg", "prlimit64", "syncfs", "sendmmsg", "getcpu", "sched_setattr",
        "sched_getattr", "renameat2", "seccomp", "getrandom", "memfd_create", "execveat", "membarrier",
        "mlock2", "copy_file_range", "preadv2", "pwritev2", "pkey_mprotect", "pkey_alloc", "pkey_free",
        "statx", "io_pgetevents", "rseq", "pidfd_send_signal", "pidfd_open", "close_range",
        "faccessat2", "epoll_pwait2", "landlock_create_ruleset", "landlock_add_rule",
        "landlock_restrict_self", "futex_waitv",
};
/* clang-format on */

/* EPERM: other processes' memory, keys, namespaces, mounts, the kernel's own affairs. */
/* clang-format off */
static const char *const filter_refused[] = {
        "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease",
        "pidfd_getfd", "kcmp", "add_key", "request_key", "keyctl", "bpf", "perf_event_open",
        "userfaultfd", "memfd_secret", "mount", "umount2", "umount", "pivot_root", "chroot", "unshare",
        "setns", "name_to_handle_at", "open_by_handle_at", "mbind", "set_mempolicy", "get_mempolicy",
        "migrate_pages", "move_pages", "set_mempolicy_home_node", "fanotify_init", "fanotify_mark",
        "lookup_dcookie", "quotactl", "quotactl_fd", "acct", "syslog", "kexec_load", "kexec_file_load",
        "init_module", "finit_module", "delete_module", "create_module", "get_kernel_syms",
        "query_module", "iopl", "ioperm", "swapon", "swapoff", "reboot", "settimeofday",
        "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname", "vhangup",
        "modify_ldt", "vm86", "vm86old", "uselib", "ustat", "sysfs", "_sysctl", "nfsservctl",
        "afs_syscall", "getpmsg", "putpmsg", "security", "tuxcall", "vserver", "set_thread_area",
        "get_thread_area",
};
/* clang-format on */
