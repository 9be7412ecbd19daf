/* Texts of every kind: what is accepted compiles, yields a plan, and is written in a form that means the
 * same. */

#include "daemon/policy/policy.h"

#include "proto/base/fd.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/seal.h"

static Policy *parse(PolicyKind kind, const char *text, size_t size)
{
        PolicyDiagnostics d;
        Policy *p = NULL;
        int r;

        policy_diagnostics_init(&d);
        r = policy_parse(kind, "fuzz.json", text, size, &d, &p);
        sb_assert((r < 0) == (d.n_failures > 0) && (r < 0) == !p);
        LIST_FOREACH (g, &d.list, PolicyDiagnostic, link) {
                fuzz_read_string(g->key);
                fuzz_read_string(g->message);
        }
        policy_diagnostics_done(&d);
        return p;
}

static void compile(const Policy *p, const Policy *project, const Policy *ceiling)
{
        const PolicyBlock *b = NULL;
        _cleanup_close_ int fd = -EBADF;

        if (policy_compile(p, project, ceiling, 1, &fd) < 0)
                return;
        sb_assert(policy_block_open(fd, &b) == 0);
        b = policy_block_close(b);
}

static void check_written(const Policy *p)
{
        _cleanup_(policy_freep) Policy *again = NULL;
        _cleanup_free_ char *one = NULL, *two = NULL;

        sb_assert(policy_format(p, &one) == 0);
        again = parse(POLICY_PROFILE, one, strlen(one));
        sb_assert(again && policy_format(again, &two) == 0 && strcmp(one, two) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_free_ char *text = fuzz_copy(data, size);
        _cleanup_(policy_freep) Policy *profile = parse(POLICY_PROFILE, text, size);
        _cleanup_(policy_freep) Policy *user _unused_ = parse(POLICY_USER, text, size);
        _cleanup_(policy_freep) Policy *project = parse(POLICY_PROJECT, text, size);
        _cleanup_(policy_freep) Policy *ceiling = parse(POLICY_CEILING, text, size);
        _cleanup_(policy_freep) Policy *settings = parse(POLICY_SETTINGS, text, size);
        _cleanup_close_ int plan_fd = -EBADF;
        PrivSettings values;

        if (settings)
                policy_settings(settings, &values);
        if (profile) {
                check_written(profile);
                compile(profile, project, ceiling);
                (void) seal_plan(profile, &plan_fd);
        }
        return 0;
}
