/* Preloaded: a kernel that attaches no program to control groups, as far as the daemon can see. */

#include <dlfcn.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((visibility("default"))) long syscall(long number, ...)
{
        long (*real)(long, ...) = (long (*)(long, ...)) dlsym(RTLD_NEXT, "syscall");
        long a[6];
        va_list list;

        va_start(list, number);
        for (int i = 0; i < 6; i++)
                a[i] = va_arg(list, long);
        va_end(list);
        if (number == SYS_bpf && a[0] == BPF_PROG_ATTACH) {
                errno = EPERM;
                return -1;
        }
        return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
