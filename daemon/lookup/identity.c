/* Users and groups, from whatever name service the machine has. */

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/lookup/lookup.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define NSS_BUFFER_SIZE (64U * 1024U)
#define NSS_GROUPS_MAX  65536
#define PASSWD_PATH     "/etc/passwd"
#define GROUP_PATH      "/etc/group"
#define LOOKS           2U

/*
 * The C library says "not found" also where it could not look: a service that failed for want of memory or
 * descriptors is passed over, and the next one knows nobody. A user who was not found would get the group of
 * that number; so nobody is believed to be unknown before somebody has looked twice, at files that open.
 */
static int check_readable(const char *path)
{
        FILE *f = fopen(path, "re");

        if (!f)
                return errno == ENOENT ? 0 : neg_errno();
        (void) fclose(f);
        return 0;
}

static int find_failure(int r)
{
        return r == 0 || r == ENOENT || r == ESRCH ? 0 : -r;
}

static int find_user_id(uint32_t uid, struct passwd *pw, char *buffer, const struct passwd **ret)
{
        struct passwd *found = NULL;
        int r = 0;

        for (unsigned i = 0; r >= 0 && !found && i < LOOKS; i++) {
                r = i > 0 ? check_readable(PASSWD_PATH) : 0;
                if (r >= 0)
                        r = find_failure(getpwuid_r((uid_t) uid, pw, buffer, NSS_BUFFER_SIZE, &found));
        }
        if (r >= 0)
                *ret = found;
        return r;
}

static int set_unknown(uint32_t uid, PrivIdentity *to)
{
        int r;

        to->gid = uid;
        r = str_printf(to->user, sizeof(to->user), "%u", uid);
        if (r >= 0)
                r = str_copy(to->group, sizeof(to->group), to->user);
        if (r >= 0)
                r = str_copy(to->home, sizeof(to->home), "/nonexistent");
        return r < 0 ? r : str_copy(to->shell, sizeof(to->shell), "/bin/sh");
}

/* NULL: it has no name. */
static int find_group_id(uint32_t gid, struct group *gr, char *buffer, const char **ret)
{
        struct group *found = NULL;
        int r = 0;

        for (unsigned i = 0; r >= 0 && !found && i < LOOKS; i++) {
                r = i > 0 ? check_readable(GROUP_PATH) : 0;
                if (r >= 0)
                        r = find_failure(getgrgid_r((gid_t) gid, gr, buffer, NSS_BUFFER_SIZE, &found));
        }
        /* Any other failure only leaves it without a name. */
        if (r == -ENOMEM || r == -EMFILE || r == -ENFILE)
                return r;
        *ret = found ? found->gr_name : NULL;
        return 0;
}

static int set_group_name(PrivIdentity *to, char *buffer)
{
        const char *name = NULL;
        struct group gr;
        int r = find_group_id(to->gid, &gr, buffer, &name);

        if (r < 0)
                return r;
        if (name && str_copy(to->group, sizeof(to->group), name) >= 0)
                return 0;
        return str_printf(to->group, sizeof(to->group), "%u", to->gid);
}

/* Only for people and policies, which name groups: one without a name, or with one that is too long, cannot
 * be named. */
static int set_group_names(PrivIdentity *to, char *buffer)
{
        for (uint32_t i = 0; i < to->n_groups; i++) {
                const char *name = NULL;
                struct group gr;
                int r = find_group_id(to->groups[i], &gr, buffer, &name);

                if (r < 0)
                        return r;
                if (!name || str_copy(to->group_names[i], sizeof(to->group_names[i]), name) < 0)
                        to->group_names[i][0] = '\0';
        }
        return 0;
}

/* More groups than a message carries: the session opens paths with fewer rights, never with more. */
static int set_groups(const struct passwd *pw, PrivIdentity *to)
{
        _cleanup_free_ gid_t *groups = NULL;
        int n = NSS_GROUPS_MAX;

        groups = calloc(NSS_GROUPS_MAX, sizeof(*groups));
        if (!groups)
                return -ENOMEM;
        if (getgrouplist(pw->pw_name, pw->pw_gid, groups, &n) < 0) {
                /* Nothing was written then, and nothing would be the group of root. */
                if (n <= NSS_GROUPS_MAX)
                        return -ENOMEM;
                n = NSS_GROUPS_MAX;
        }
        for (int i = 0; i < n && to->n_groups < PRIV_GROUPS_MAX; i++)
                to->groups[to->n_groups++] = (uint32_t) groups[i];
        return 0;
}

int lookup_identity(uint32_t uid, PrivIdentity *ret)
{
        _cleanup_free_ char *buffer = NULL;
        PrivIdentity to = { .uid = uid };
        const struct passwd *found = NULL;
        struct passwd pw;
        int r;

        buffer = malloc(NSS_BUFFER_SIZE);
        if (!buffer)
                return -ENOMEM;
        r = find_user_id(uid, &pw, buffer, &found);
        if (r < 0)
                return r;
        if (!found) {
                r = set_unknown(uid, &to);
        } else {
                to.gid = (uint32_t) found->pw_gid;
                r = str_copy(to.user, sizeof(to.user), found->pw_name);
                if (r >= 0)
                        r = str_copy(to.home, sizeof(to.home),
                                     found->pw_dir[0] == '/' ? found->pw_dir : "/nonexistent");
                if (r >= 0)
                        r = str_copy(to.shell, sizeof(to.shell),
                                     found->pw_shell[0] == '/' ? found->pw_shell : "/bin/sh");
                if (r >= 0)
                        r = set_groups(found, &to);
                if (r >= 0)
                        r = set_group_name(&to, buffer);
                if (r >= 0)
                        r = set_group_names(&to, buffer);
        }
        if (r < 0)
                return r;
        *ret = to;
        return 0;
}

int lookup_home(PrivIdentity *identity)
{
        _cleanup_close_ int fd = open(identity->home, O_PATH | O_DIRECTORY | O_CLOEXEC);
        char link[32], path[PRIV_PATH_SIZE];
        ssize_t n;

        if (fd < 0 || str_printf(link, sizeof(link), "/proc/self/fd/%d", fd) < 0)
                return 0;
        n = readlink(link, path, sizeof(path) - 1);
        if (n <= 1 || path[0] != '/')
                return 0;
        path[n] = '\0';
        /* It becomes a field of /etc/passwd. */
        if (strpbrk(path, ":\n") || strlen(path) >= sizeof(identity->home))
                return 0;
        return str_copy(identity->home, sizeof(identity->home), path);
}

static int find_account(const char *name, uint32_t *ret_uid, uint32_t *ret_gid)
{
        _cleanup_free_ char *buffer = NULL;
        struct passwd pw, *found = NULL;
        int r;

        buffer = malloc(NSS_BUFFER_SIZE);
        if (!buffer)
                return -ENOMEM;
        r = find_failure(getpwnam_r(name, &pw, buffer, NSS_BUFFER_SIZE, &found));
        if (r < 0)
                return r;
        if (!found || found->pw_uid == 0 || found->pw_gid == 0)
                return -ENOENT;
        *ret_uid = (uint32_t) found->pw_uid;
        *ret_gid = (uint32_t) found->pw_gid;
        return 0;
}

static int find_group(const char *name, uint32_t *ret_gid)
{
        _cleanup_free_ char *buffer = NULL;
        struct group gr, *found = NULL;
        int r = 0;

        buffer = malloc(NSS_BUFFER_SIZE);
        if (!buffer)
                return -ENOMEM;
        for (unsigned i = 0; r >= 0 && !found && i < LOOKS; i++) {
                r = i > 0 ? check_readable(GROUP_PATH) : 0;
                if (r >= 0)
                        r = find_failure(getgrnam_r(name, &gr, buffer, NSS_BUFFER_SIZE, &found));
        }
        if (r < 0)
                return r;
        *ret_gid = found ? (uint32_t) found->gr_gid : UINT32_MAX;
        return 0;
}

int lookup_workers(PrivWorkerIds *ret, const char **ret_missing)
{
        PrivWorkerIds to = { 0 };
        const struct {
                const char *name;
                uint32_t *uid;
                uint32_t *gid;
        } accounts[] = {
                { "sandboxd-api", &to.api_uid, &to.api_gid },
                { "sandboxd-audit", &to.audit_uid, &to.audit_gid },
                { "sandboxd-dialer", &to.dialer_uid, &to.dialer_gid },
                { "sandboxd-egress", &to.egress_uid, &to.egress_gid },
                { "sandboxd-watch", &to.watch_uid, &to.watch_gid },
        };
        int r;

        for (size_t i = 0; i < ELEMENTSOF(accounts); i++) {
                r = find_account(accounts[i].name, accounts[i].uid, accounts[i].gid);
                if (r < 0) {
                        *ret_missing = accounts[i].name;
                        return r;
                }
        }
        *ret_missing = "sandboxd-admins";
        r = find_group("sandboxd-admins", &to.admins_gid);
        if (r >= 0) {
                *ret_missing = "sandboxd-auditors";
                r = find_group("sandboxd-auditors", &to.auditors_gid);
        }
        if (r < 0)
                return r;
        *ret = to;
        return 0;
}
