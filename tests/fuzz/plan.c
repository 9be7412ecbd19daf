/* A plan from api, as init opens it with privileges; once as it is, once with magic and size put right. */

#include "daemon/init/plan.h"

#include <errno.h>

#include "tests/fuzz/fuzz.h"

static void check_path(const Plan *p, uint32_t offset)
{
        const char *s = plan_string(p, offset);

        fuzz_read_string(s);
        sb_assert(s[0] == '/' && strlen(s) < PLAN_PATH_MAX && !strstr(s, "//") && !strstr(s, "/../"));
}

static void open_plan(const void *data, size_t size)
{
        Plan p;
        int r = plan_open(data, size, &p);

        sb_assert(r == 0 || r == -EBADMSG);
        if (r < 0)
                return;
        check_path(&p, p.header->home);
        check_path(&p, p.header->shell);
        check_path(&p, p.header->workspace);
        fuzz_read_string(plan_string(&p, p.header->user));
        fuzz_read_string(plan_string(&p, p.header->group));
        fuzz_read_string(plan_string(&p, p.header->hostname));
        sb_assert(p.header->n_mounts <= PLAN_MOUNTS_MAX && *plan_string(&p, 0) == '\0');
        for (uint32_t i = 0; i < p.header->n_mounts; i++) {
                const PlanMount *m = &p.mounts[i];

                sb_assert(m->type < _PLAN_MOUNT_TYPE_MAX && !(m->flags & ~(uint32_t) PLAN_FLAGS_ALL));
                check_path(&p, m->target);
                if (m->type == PLAN_BIND)
                        check_path(&p, m->source);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_free_ void *copy = fuzz_copy(data, size);
        PlanHeader *h = copy;

        open_plan(copy, size);
        if (size < sizeof(*h))
                return 0;
        h->magic = PLAN_MAGIC;
        h->size = (uint32_t) size;
        open_plan(copy, size);
        return 0;
}
