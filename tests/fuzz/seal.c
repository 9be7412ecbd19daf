#include "tests/fuzz/seal.h"

#include "tests/fuzz/fuzz.h"

int seal_plan(const Policy *p, int *ret_fd)
{
        static const PolicyVariables variables = {
                .workspace = "/home/u/w", .home = "/home/u", .user = "u", .uid = 1
        };
        _cleanup_(plan_builder_freep) PlanBuilder *b = NULL;
        PlanHeader header = { 0 };
        PolicyDiagnostics d;
        int r;

        policy_diagnostics_init(&d);
        sb_assert(plan_builder_new(&b) == 0);
        r = policy_plan(p, &variables, /* is_root_session= */ true, b, &header, &d);
        sb_assert((r < 0) == (d.n_failures > 0));
        policy_diagnostics_done(&d);
        if (r < 0)
                return r;
        sb_assert(plan_builder_string(b, "/home/u", &header.home) == 0);
        sb_assert(plan_builder_string(b, "u", &header.user) == 0);
        sb_assert(plan_builder_string(b, "/home/u/w", &header.workspace) == 0);
        sb_assert(plan_builder_string(b, "/bin/sh", &header.shell) == 0);
        header.group = header.hostname = header.user;
        r = plan_builder_seal(b, &header, ret_fd);
        sb_assert(r == 0);
        return r;
}
