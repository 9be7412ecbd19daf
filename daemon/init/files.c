#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "daemon/init/setup.h"
#include "proto/base/buf.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define RECORD_MAX       (PLAN_PATH_MAX * 2 + 1024)
#define GROUPS_BYTES_MAX (64U * 1024U)

static int write_file(Setup *s, const char *name, const char *text)
{
        char path[64];
        _cleanup_close_ int fd = -EBADF;
        int r;

        r = str_printf(path, sizeof(path), "run/sandbox/%s", name);
        if (r < 0)
                return r;
        fd = openat(s->root_fd, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
        if (fd < 0)
                return neg_errno();
        return fd_write_all(fd, text, strlen(text));
}

static int write_passwd(Setup *s)
{
        const PlanHeader *h = s->plan.header;
        char text[RECORD_MAX];
        int r;

        r = str_printf(text, sizeof(text),
                       "root:x:0:0:root:/root:/usr/sbin/nologin\n"
                       "%s:x:%u:%u::%s:%s\n"
                       "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
                       plan_string(&s->plan, h->user), s->start.uid, s->start.gid,
                       plan_string(&s->plan, h->home), plan_string(&s->plan, h->shell));
        return r < 0 ? r : write_file(s, "passwd", text);
}

static int format_groups(Setup *s, Buf *b)
{
        const PlanHeader *h = s->plan.header;
        int r;

        r = buf_printf(b, "root:x:0:\nnogroup:x:65534:\n%s:x:%u:\n", plan_string(&s->plan, h->group),
                       s->start.gid);
        for (uint32_t i = 0; r == 0 && i < s->start.n_kept_groups; i++)
                r = buf_printf(b, "g%u:x:%u:%s\n", s->start.kept_groups[i], s->start.kept_groups[i],
                               plan_string(&s->plan, h->user));
        return r < 0 ? r : buf_put(b, "", 1);
}

static int write_group(Setup *s)
{
        Buf b = BUF_INIT(GROUPS_BYTES_MAX);
        int r;

        r = format_groups(s, &b);
        if (r == 0)
                r = write_file(s, "group", buf_front(&b));
        buf_done(&b);
        return r;
}

static int write_names(Setup *s)
{
        const char *name = plan_string(&s->plan, s->plan.header->hostname);
        char text[512];
        int r;

        r = str_printf(text, sizeof(text), "%s\n", name);
        if (r == 0)
                r = write_file(s, "hostname", text);
        if (r == 0)
                r = str_printf(text, sizeof(text),
                               "127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost ip6-localhost\n", name);
        return r < 0 ? r : write_file(s, "hosts", text);
}

int files_write(Setup *s)
{
        const char *name = plan_string(&s->plan, s->plan.header->hostname);
        int r;

        setup_step(s, "files");
        if (sethostname(name, strlen(name)) < 0)
                return setup_fail(s, neg_errno(), "hostname");
        r = write_passwd(s);
        if (r == 0)
                r = write_group(s);
        if (r == 0)
                r = write_names(s);
        return r < 0 ? setup_fail(s, r, "/run/sandbox") : 0;
}
