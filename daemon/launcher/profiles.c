#include "daemon/launcher/profiles.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/launcher/trusted.h"
#include "proto/base/bundle.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define PROFILE_SIZE_MAX (1024U * 1024U)
#define PROFILE_SUFFIX   ".json"
#define SCHEMA_SUFFIX    ".schema.json"

typedef struct Gathering {
        BundleBuilder builder;
        const char *folder;
        int folder_fd;
        bool is_shipped;
        PrivDiagnostic *fault;
} Gathering;

/* Both were said by us: cut where they do not fit. */
static void copy_cut(char *to, size_t size, const char *from)
{
        size_t n = MIN_OF(strlen(from), size - 1);

        memcpy(to, from, n);
        to[n] = '\0';
}

void fault_set(PrivDiagnostic *to, const char *file, const char *message)
{
        *to = (PrivDiagnostic){ .severity = DIAGNOSTIC_FAILURE };
        copy_cut(to->file, sizeof(to->file), file);
        copy_cut(to->message, sizeof(to->message), message);
}

/* Always r. */
static int fail(Gathering *g, const char *path, int r, const char *message)
{
        (void) log_error(r, "%s: %s", path, message);
        fault_set(g->fault, path, message);
        return r;
}

/* The shipped ones are as trusted as the programs beside them, whoever unpacked both. */
static int open_shipped(int folder_fd, const char *name, int *ret_fd, TrustedFault *fault)
{
        _cleanup_close_ int fd =
                        openat(folder_fd, name, O_RDONLY | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
        struct stat st;

        fault->text[0] = '\0';
        if (fd < 0 || fstat(fd, &st) < 0)
                return neg_errno();
        if (!S_ISREG(st.st_mode))
                return -EINVAL;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int add(Gathering *g, const char *name)
{
        BundleText of = { .is_shipped = g->is_shipped };
        _cleanup_close_ int fd = -EBADF;
        _cleanup_free_ char *text = NULL;
        size_t size = 0, n_name = strlen(name) - strlen(PROFILE_SUFFIX);
        TrustedFault fault = { "" };
        int r;

        memcpy(of.name, name, n_name);
        r = str_printf(of.source, sizeof(of.source), "%s/%s", g->folder, name);
        if (r < 0)
                return fail(g, name, r, "the path of its folder is too long");
        r = g->is_shipped ? open_shipped(g->folder_fd, name, &fd, &fault)
                          : trusted_open_at(g->folder_fd, name, &fd, &fault);
        if (r >= 0)
                r = fd_read_all(fd, PROFILE_SIZE_MAX, &text, &size);
        if (r == -ENOENT)
                return 0; /* removed just now */
        if (r < 0)
                return fail(g, of.source, r, fault.text[0] ? fault.text : "it cannot be read");
        r = bundle_add(&g->builder, &of, text, size);
        return r < 0 ? fail(g, of.source, r, "there are too many profiles, or they are too large together")
                     : 0;
}

/* What can be named. Editors' copies and the like cannot, and the schema is none. */
static int is_profile(const struct dirent *entry)
{
        static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
        const char *name = entry->d_name;
        size_t n = strlen(name), n_name;

        if (n <= strlen(PROFILE_SUFFIX) || !str_has_suffix(name, PROFILE_SUFFIX) ||
            str_has_suffix(name, SCHEMA_SUFFIX))
                return 0;
        n_name = n - strlen(PROFILE_SUFFIX);
        return n_name < BUNDLE_NAME_SIZE && !strchr("._-", name[0]) && strspn(name, letters) >= n_name;
}

static int compare(const struct dirent **a, const struct dirent **b)
{
        return strcmp((*a)->d_name, (*b)->d_name);
}

static int gather_folder(Gathering *g)
{
        struct dirent **entries = NULL;
        int n, r = 0;

        n = scandirat(g->folder_fd, ".", &entries, is_profile, compare);
        if (n < 0)
                return fail(g, g->folder, neg_errno(), "the folder cannot be read");
        for (int i = 0; i < n; i++) {
                if (r >= 0)
                        r = add(g, entries[i]->d_name);
                free(entries[i]);
        }
        free(entries);
        return r;
}

static int gather_shipped(Gathering *g, const char *folder)
{
        _cleanup_close_ int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (fd < 0)
                return errno == ENOENT ? 0 : fail(g, folder, neg_errno(), "the folder cannot be read");
        g->folder = folder;
        g->folder_fd = fd;
        g->is_shipped = true;
        return gather_folder(g);
}

static int gather_administrators(Gathering *g, const char *folder)
{
        _cleanup_close_ int fd = -EBADF;
        TrustedFault fault = { "" };
        int r;

        r = trusted_open_directory(folder, &fd, &fault);
        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return fail(g, folder, r, fault.text[0] ? fault.text : "the folder cannot be read");
        g->folder = folder;
        g->folder_fd = fd;
        g->is_shipped = false;
        return gather_folder(g);
}

/* What bounds and what adds to every profile: neither has to be there. */
static int gather_layer(Gathering *g, const char *file, const char *name)
{
        BundleText of = { .is_shipped = 0 };
        _cleanup_close_ int fd = -EBADF;
        _cleanup_free_ char *text = NULL;
        TrustedFault fault = { "" };
        size_t size = 0;
        int r;

        r = str_copy(of.name, sizeof(of.name), name);
        if (r >= 0)
                r = str_printf(of.source, sizeof(of.source), "%s/%s", g->folder, file);
        if (r < 0)
                return fail(g, file, r, "the path of its folder is too long");
        r = trusted_open(g->folder, file, &fd, &fault);
        if (r == -ENOENT)
                return 0;
        if (r >= 0)
                r = fd_read_all(fd, PROFILE_SIZE_MAX, &text, &size);
        if (r < 0)
                return fail(g, of.source, r, fault.text[0] ? fault.text : "it cannot be read");
        r = bundle_add(&g->builder, &of, text, size);
        return r < 0 ? fail(g, of.source, r, "it is too large") : 0;
}

static int gather_layers(Gathering *g, const char *folder)
{
        int r;

        g->folder = folder;
        r = gather_layer(g, "ceiling.json", BUNDLE_CEILING);
        return r < 0 ? r : gather_layer(g, "policy.json", BUNDLE_SYSTEM);
}

int profiles_gather(const Config *config, int *ret_fd, PrivDiagnostic *ret_fault)
{
        Gathering g = { .builder = BUNDLE_BUILDER_INIT, .fault = ret_fault };
        char folder[PRIV_PATH_SIZE];
        int r;

        r = str_printf(folder, sizeof(folder), "%s/policies", config->config_dir);
        if (r < 0)
                return fail(&g, config->config_dir, r, "the path is too long");
        r = gather_shipped(&g, config->policy_dir);
        if (r >= 0)
                r = gather_layers(&g, config->config_dir);
        if (r >= 0)
                r = gather_administrators(&g, folder);
        if (r >= 0) {
                r = bundle_seal(&g.builder, ret_fd);
                if (r < 0)
                        r = fail(&g, folder, r, "there is no memory for the profiles");
        }
        bundle_builder_done(&g.builder);
        return r;
}
