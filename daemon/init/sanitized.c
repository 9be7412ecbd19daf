/* Linked into sandbox-init-sanitized only, which tests start: how the runtime behaves in pid 1 of a session.
 */

#include <sanitizer/asan_interface.h>

/* Finding leaks takes a process that traces this one, which is not dumpable. */
__attribute__((visibility("default"))) const char *__asan_default_options(void)
{
        return "halt_on_error=1:abort_on_error=0:exitcode=99:detect_leaks=0:detect_stack_use_after_return=1";
}
