#include "daemon/init/plan.h"

#include <stdbool.h>
#include <string.h>

#include "proto/base/buf.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/glob.h"

#define FILES_MIN      64U
#define FILES_MAX      1048576U
#define NAME_MAX_BYTES 255U

/* ---- reading ---- */

/* A string of the table: its offset lies inside, and it ends before the table does. */
static bool string_ok(const Plan *p, uint32_t offset)
{
        uint32_t size = p->header->strings_size;

        return offset < size && memchr(p->strings + offset, '\0', size - offset) != NULL;
}

static bool component_ok(const char *s, size_t n)
{
        if (n == 0 || n > NAME_MAX_BYTES)
                return false;
        return !(n == 1 && s[0] == '.') && !(n == 2 && s[0] == '.' && s[1] == '.');
}

static bool path_ok(const char *s)
{
        if (s[0] != '/' || strlen(s) >= PLAN_PATH_MAX)
                return false;
        if (s[1] == '\0')
                return true;
        for (;;) {
                const char *begin = ++s;

                s = strchrnul(begin, '/');
                if (!component_ok(begin, (size_t) (s - begin)))
                        return false;
                if (*s == '\0')
                        return true;
        }
}

/* A path that something may be put at. */
static bool target_ok(const Plan *p, uint32_t offset)
{
        return string_ok(p, offset) && path_ok(plan_string(p, offset)) && plan_string(p, offset)[1] != '\0';
}

/* What becomes a field of /etc/passwd or a host name: no separators, no control bytes. */
static bool name_ok(const Plan *p, uint32_t offset)
{
        const char *s = plan_string(p, offset);

        if (!string_ok(p, offset) || *s == '\0' || strlen(s) > NAME_MAX_BYTES)
                return false;
        for (; *s; s++) {
                unsigned char c = (unsigned char) *s;

                if (c <= ' ' || c == 0x7f || c == ':' || c == '/' || c == ',')
                        return false;
        }
        return true;
}

/* Goes into /etc/passwd as well. */
static bool record_path_ok(const Plan *p, uint32_t offset)
{
        return target_ok(p, offset) && !strpbrk(plan_string(p, offset), ":\n");
}

static bool range_ok(uint32_t size, uint32_t offset, uint64_t n_bytes)
{
        return offset >= sizeof(PlanHeader) && offset <= size && n_bytes <= size - offset;
}

static bool layout_ok(const PlanHeader *h, size_t size)
{
        if (h->magic != PLAN_MAGIC || h->size != size || size > PLAN_SIZE_MAX)
                return false;
        if (h->n_mounts > PLAN_MOUNTS_MAX || h->mounts % 8 != 0 || h->strings_size == 0)
                return false;
        return range_ok(h->size, h->mounts, (uint64_t) h->n_mounts * sizeof(PlanMount)) &&
               range_ok(h->size, h->strings, h->strings_size);
}

static bool header_ok(const Plan *p)
{
        const PlanHeader *h = p->header;

        if (p->strings[0] != '\0' || h->has_tmp_workspace > 1 || h->home_kind >= _PLAN_HOME_KIND_MAX ||
            h->padding != 0)
                return false;
        if (h->files_max < FILES_MIN || h->files_max > FILES_MAX || !h->tmp_size_bytes ||
            !h->home_size_bytes)
                return false;
        return record_path_ok(p, h->home) && record_path_ok(p, h->shell) && target_ok(p, h->workspace) &&
               name_ok(p, h->user) && name_ok(p, h->group) && name_ok(p, h->hostname) &&
               strlen(plan_string(p, h->hostname)) <= 64;
}

static bool is_below(const char *path, const char *folder)
{
        size_t n = strlen(folder);

        return strncmp(path, folder, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

/* Where init itself looks or writes while it makes the session. */
static bool is_inits_own(const char *path)
{
        return is_below(path, "/proc") || is_below(path, "/sys") || is_below(path, "/run/sandbox");
}

static bool matches_ok(const Plan *p, const PlanMount *m)
{
        Glob g;

        return m->flags == 0 && m->size_bytes == 0 && m->target == p->header->workspace &&
               glob_parse(plan_string(p, m->source), &g) >= 0;
}

/* What says of a repository, which no plan names, whether it is shown. */
static bool repository_ok(const Plan *p, const PlanMount *m)
{
        if (m->source != 0 || m->size_bytes != 0)
                return false;
        if (m->type == PLAN_BOUND)
                return path_ok(plan_string(p, m->target)) && !(m->flags & ~(uint32_t) PLAN_WRITABLE);
        if (m->type == PLAN_DENY)
                return path_ok(plan_string(p, m->target)) && m->flags == 0;
        return m->target == p->header->workspace && !p->header->has_tmp_workspace &&
               !(m->flags & ~(uint32_t) (PLAN_WRITABLE | PLAN_IDMAP));
}

static bool mount_ok(const Plan *p, const PlanMount *m)
{
        if (m->type >= _PLAN_MOUNT_TYPE_MAX || m->flags & ~(uint32_t) PLAN_FLAGS_ALL)
                return false;
        if (!string_ok(p, m->target) || !string_ok(p, m->source) || !string_ok(p, m->layer) ||
            !string_ok(p, m->rule))
                return false;
        if (m->type == PLAN_MASK)
                return target_ok(p, m->target) && m->source == 0 && m->size_bytes == 0 &&
                       !(m->flags & ~(uint32_t) (PLAN_MADE | PLAN_QUIET));
        if (m->layer != 0 || m->rule != 0 || m->flags & (PLAN_MADE | PLAN_QUIET))
                return false;
        if (m->type == PLAN_COMPOSE)
                return m->source == m->target && path_ok(plan_string(p, m->target)) &&
                       !(m->flags & ~(uint32_t) PLAN_OPTIONAL) && m->size_bytes == 0;
        if (m->type == PLAN_REPOSITORY || m->type == PLAN_BOUND || m->type == PLAN_DENY)
                return repository_ok(p, m);
        if (!target_ok(p, m->target))
                return false;
        if ((m->type == PLAN_BIND || m->type == PLAN_SOCKET || m->type == PLAN_TMPFS) &&
            is_inits_own(plan_string(p, m->target)))
                return false;
        if (m->type == PLAN_MASK_MATCHES)
                return matches_ok(p, m);
        if (m->type == PLAN_HIDE)
                return m->source == 0 && !(m->flags & ~(uint32_t) PLAN_FOLLOW) && m->size_bytes == 0;
        if (m->flags & PLAN_FOLLOW)
                return false;
        if (m->type == PLAN_SOCKET && m->flags & ~(uint32_t) (PLAN_OPTIONAL | PLAN_IDMAP))
                return false;
        if (m->type == PLAN_BIND || m->type == PLAN_SOCKET)
                return target_ok(p, m->source) && m->size_bytes == 0;
        /* Only what has a source has rights or an owner to choose. */
        if (m->source != 0 || (m->flags & (PLAN_IDMAP | PLAN_WORKSPACE | PLAN_EXEC_TOOLS)))
                return false;
        return m->type == PLAN_TMPFS ? m->size_bytes > 0 : m->size_bytes == 0 && m->flags == 0;
}

/* One workspace, shown where commands start; or none, and then an own directory. */
static bool workspace_ok(const Plan *p)
{
        const char *workspace = plan_string(p, p->header->workspace);
        size_t n = 0;

        for (uint32_t i = 0; i < p->header->n_mounts; i++) {
                const PlanMount *m = &p->mounts[i];

                if (!(m->flags & PLAN_WORKSPACE))
                        continue;
                if ((m->flags & (PLAN_OPTIONAL | PLAN_EXEC_TOOLS)) ||
                    strcmp(plan_string(p, m->target), workspace) != 0)
                        return false;
                n++;
        }
        return n == (p->header->has_tmp_workspace ? 0U : 1U);
}

int plan_open(const void *data, size_t size, Plan *ret)
{
        Plan p = { .header = data };

        if ((uintptr_t) data % 8 != 0 || size < sizeof(PlanHeader) || !layout_ok(p.header, size))
                return -EBADMSG;
        p.mounts = (const PlanMount *) (const void *) ((const char *) data + p.header->mounts);
        p.strings = (const char *) data + p.header->strings;
        if (!header_ok(&p))
                return -EBADMSG;
        for (uint32_t i = 0; i < p.header->n_mounts; i++) {
                if (!mount_ok(&p, &p.mounts[i]))
                        return -EBADMSG;
        }
        if (!workspace_ok(&p))
                return -EBADMSG;
        *ret = p;
        return 0;
}

/* ---- writing ---- */

struct PlanBuilder {
        Buf strings;
        PlanMount mounts[PLAN_MOUNTS_MAX];
        uint32_t n_mounts;
};

int plan_builder_new(PlanBuilder **ret)
{
        _cleanup_(plan_builder_freep) PlanBuilder *b = NULL;
        int r;

        b = calloc(1, sizeof(*b));
        if (!b)
                return -ENOMEM;
        b->strings = BUF_INIT(PLAN_SIZE_MAX);
        r = buf_put(&b->strings, "", 1);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(b);
        return 0;
}

PlanBuilder *plan_builder_free(PlanBuilder *b)
{
        if (!b)
                return NULL;
        buf_done(&b->strings);
        free(b);
        return NULL;
}

int plan_builder_string(PlanBuilder *b, const char *s, uint32_t *ret_offset)
{
        size_t n = strlen(s) + 1, size = buf_size(&b->strings);
        const char *strings = buf_front(&b->strings);
        int r;

        if (n > PLAN_PATH_MAX)
                return -ENAMETOOLONG;
        for (size_t at = 0; at < size; at += strlen(strings + at) + 1) {
                if (strcmp(strings + at, s) == 0) {
                        *ret_offset = (uint32_t) at;
                        return 0;
                }
        }
        r = buf_put(&b->strings, s, n);
        if (r < 0)
                return r;
        *ret_offset = (uint32_t) size;
        return 0;
}

int plan_builder_mask(PlanBuilder *b, uint32_t flags, const char *target, const char *layer,
                      const char *rule)
{
        PlanMount *m;
        int r;

        r = plan_builder_mount(b, PLAN_MASK, flags, "", target, 0);
        if (r < 0)
                return r;
        m = &b->mounts[b->n_mounts - 1];
        r = plan_builder_string(b, layer, &m->layer);
        return r < 0 ? r : plan_builder_string(b, rule, &m->rule);
}

int plan_builder_mount(PlanBuilder *b, PlanMountType type, uint32_t flags, const char *source,
                       const char *target, uint64_t size_bytes)
{
        PlanMount m = { .type = (uint32_t) type, .flags = flags, .size_bytes = size_bytes };
        int r;

        if (b->n_mounts >= PLAN_MOUNTS_MAX)
                return -E2BIG;
        r = plan_builder_string(b, source ? source : "", &m.source);
        if (r < 0)
                return r;
        r = plan_builder_string(b, target, &m.target);
        if (r < 0)
                return r;
        b->mounts[b->n_mounts++] = m;
        return 0;
}

int plan_builder_seal(PlanBuilder *b, const PlanHeader *header, int *ret_fd)
{
        _cleanup_free_ char *data = NULL;
        size_t n_strings = buf_size(&b->strings), n_mounts = b->n_mounts * sizeof(PlanMount);
        size_t size = sizeof(PlanHeader) + n_mounts + n_strings;
        PlanHeader h = *header;
        Plan plan;
        int r;

        if (size > PLAN_SIZE_MAX)
                return -E2BIG;
        h.magic = PLAN_MAGIC;
        h.size = (uint32_t) size;
        h.mounts = sizeof(PlanHeader);
        h.n_mounts = b->n_mounts;
        h.strings = (uint32_t) (sizeof(PlanHeader) + n_mounts);
        h.strings_size = (uint32_t) n_strings;
        data = malloc(size);
        if (!data)
                return -ENOMEM;
        memcpy(data, &h, sizeof(h));
        memcpy(data + h.mounts, b->mounts, n_mounts);
        memcpy(data + h.strings, buf_front(&b->strings), n_strings);
        r = plan_open(data, size, &plan);
        if (r < 0)
                return r;
        return fd_memfd_sealed("sandboxd-plan", data, size, ret_fd);
}
