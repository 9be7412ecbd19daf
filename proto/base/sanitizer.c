/*
 * In sanitized builds only: how AddressSanitizer and UBSan behave in every program of the project. The
 * daemon's environment is not passed on to its workers, so options stand here.
 *
 * - A find ends the process at once, with a status that no program uses otherwise. exit_group() works under
 *   every system call filter; abort() does not.
 * - Reports go to standard error: a worker can open no file.
 * - The quarantine is small, because a machine runs many workers.
 */

#include <sanitizer/asan_interface.h>

#define SANITIZER_COMMON "halt_on_error=1:abort_on_error=0:exitcode=99:print_stacktrace=1"

/* The compiler's headers declare no such function for UBSan. */
const char *__ubsan_default_options(void);

/* What the linker is told to look for: the runtime has defaults of the functions' own names. */
extern const int sanitizer_options_are_linked;
const int sanitizer_options_are_linked = 1;

__attribute__((visibility("default"))) const char *__asan_default_options(void)
{
        return SANITIZER_COMMON ":detect_leaks=1:detect_stack_use_after_return=1"
                                ":quarantine_size_mb=16";
}

__attribute__((visibility("default"))) const char *__ubsan_default_options(void)
{
        return SANITIZER_COMMON;
}
