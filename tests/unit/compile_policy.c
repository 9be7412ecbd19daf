/* For tests in other languages: a profile on standard input becomes a compiled block on standard output. */

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/policy/policy.h"
#include "proto/base/fd.h"

int main(void)
{
        _cleanup_free_ char *text = NULL, *block = NULL;
        _cleanup_(policy_freep) Policy *p = NULL;
        PolicyDiagnostics diagnostics;
        _cleanup_close_ int fd = -EBADF;
        size_t size = 0;
        int r;

        policy_diagnostics_init(&diagnostics);
        r = fd_read_all(STDIN_FILENO, 1 << 20, &text, &size);
        if (r >= 0)
                r = policy_parse(POLICY_PROFILE, "test", text, size, &diagnostics, &p);
        LIST_FOREACH (d, &diagnostics.list, PolicyDiagnostic, link)
                (void) fprintf(stderr, "%u:%u %s: %s\n", d->line, d->column, d->key, d->message);
        policy_diagnostics_done(&diagnostics);
        if (r >= 0)
                r = policy_compile(p, NULL, NULL, 1, &fd);
        if (r >= 0)
                r = lseek(fd, 0, SEEK_SET) < 0 ? -EIO : fd_read_all(fd, 1 << 24, &block, &size);
        if (r >= 0)
                r = fd_write_all(STDOUT_FILENO, block, size);
        return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
