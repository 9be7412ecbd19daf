/*
 * sandboxd-bpf NAME LEVEL: loads the programs that refuse changes of protected paths, attaches them, and
 * pins links and maps in /sys/fs/bpf/NAME, which is root's alone. The launcher starts it once, at its own
 * start, and believes nothing of what it says: it tries whether something is refused.
 *
 * Programs that an earlier run has left, the same ones for the same level, stay attached; what they know of
 * sessions is forgotten, for none has survived. Others are taken away first.
 *
 * Of root's rights it keeps CAP_BPF and CAP_PERFMON, which loading takes.
 */

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "daemon/isolate/kernel.h"
#include "daemon/isolate/prevent.h"
#include "protect_object.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define FOLDER    "/sys/fs/bpf"
#define PATH_SIZE 256U
#define LEVEL_MAX 64U
#define PRINT_MAX 1500U

#define CAPABILITY(number) (UINT64_C(1) << (number))

/* Maps that others open by their names. */
static const char *const shared_maps[] = { "sessions", "marks", "made" };

typedef struct Pins {
        char path[PATH_SIZE];
        int fd; /* the folder */
        PreventMade made;
} Pins;

static int drop_rights(void)
{
        const uint64_t keep = CAPABILITY(CAP_BPF) | CAPABILITY(CAP_PERFMON);

        for (unsigned number = 0; number <= CAP_LAST_CAP; number++)
                if (prctl(PR_CAPBSET_DROP, (unsigned long) number, 0, 0, 0) < 0 && errno != EINVAL)
                        return neg_errno();
        if (kernel_capset(keep, keep, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                return neg_errno();
        return 0;
}

/* ---- the folder ---- */

static int open_folder(const char *name, Pins *p)
{
        struct statfs fs;
        struct stat st;
        int r;

        r = str_printf(p->path, sizeof(p->path), FOLDER "/%s", name);
        if (r < 0 || strchr(name, '/') || name[0] == '.')
                return -EINVAL;
        if (statfs(FOLDER, &fs) < 0)
                return neg_errno();
        if (fs.f_type != BPF_FS_MAGIC)
                return log_error(-ENODEV, "no BPF file system is mounted at " FOLDER);
        if (mkdir(p->path, 0700) < 0 && errno != EEXIST)
                return neg_errno();
        p->fd = open(p->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (p->fd < 0 || fstat(p->fd, &st) < 0)
                return neg_errno();
        return st.st_uid == 0 && (st.st_mode & 07777) == 0700 ? 0 : -EPERM;
}

static int pin_path(const Pins *p, const char *name, char path[PATH_SIZE])
{
        return str_printf(path, PATH_SIZE, "%s/%s", p->path, name);
}

static int open_pin(const Pins *p, const char *name)
{
        char path[PATH_SIZE];
        int fd, r = pin_path(p, name, path);

        if (r < 0)
                return r;
        fd = bpf_obj_get(path);
        return fd < 0 ? neg_errno() : fd;
}

/* Links keep a program attached: without them nothing is refused any more. */
static void take_away(const Pins *p)
{
        const struct dirent *e;
        int fd = openat(p->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);

        while (d && (e = readdir(d)))
                if (e->d_name[0] != '.')
                        (void) unlinkat(p->fd, e->d_name, 0);
        if (d)
                (void) closedir(d);
        else
                (void) fd_close(fd);
        (void) rmdir(p->path);
}

static size_t count_links(const Pins *p)
{
        const struct dirent *e;
        int fd = openat(p->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        size_t n = 0;

        while (d && (e = readdir(d)))
                n += str_has_prefix(e->d_name, "on_");
        if (d)
                (void) closedir(d);
        else
                (void) fd_close(fd);
        return n;
}

/* ---- what is there already ---- */

static bool is_the_same(const Pins *p)
{
        _cleanup_close_ int fd = open_pin(p, "made");
        PreventMade found;
        __u32 zero = 0;

        return fd >= 0 && bpf_map_lookup_elem(fd, &zero, &found) == 0 && found.digest == p->made.digest &&
               found.level == p->made.level && found.n_links > 0 && found.n_links == count_links(p);
}

static int forget_sessions(const Pins *p)
{
        _cleanup_close_ int fd = open_pin(p, "sessions");
        __u64 session;

        if (fd < 0)
                return fd;
        while (bpf_map_get_next_key(fd, NULL, &session) == 0)
                if (bpf_map_delete_elem(fd, &session) < 0 && errno != ENOENT)
                        return neg_errno();
        return 0;
}

/* ---- loading ---- */

/* The kernel says at the end what it does not like. */
static int print(enum libbpf_print_level level, const char *format, va_list ap)
{
        _cleanup_free_ char *text = NULL;
        size_t n;

        if (level != LIBBPF_WARN || vasprintf(&text, format, ap) < 0)
                return 0;
        n = strlen(text);
        while (n > 0 && text[n - 1] == '\n')
                text[--n] = '\0';
        return log_warning(0, "%s", n > PRINT_MAX ? text + n - PRINT_MAX : text);
}

/* Of the kernel's function that the hook is; negative: it has none of that name. */
static int count_parameters(const struct btf *btf, const char *function)
{
        const struct btf_type *type;
        int id = btf__find_by_name_kind(btf, function, BTF_KIND_FUNC);

        if (id < 0)
                return id;
        type = btf__type_by_id(btf, (__u32) id);
        type = type ? btf__type_by_id(btf, type->type) : NULL;
        return type ? (int) btf_vlen(type) : -ENOENT;
}

static int want(struct bpf_object *o, const char *program)
{
        struct bpf_program *found = bpf_object__find_program_by_name(o, program);

        return found ? bpf_program__set_autoload(found, true) : -ENOENT;
}

/* Hooks that not every kernel has, or not in the same form. */
static int choose(struct bpf_object *o)
{
        struct btf *btf = btf__load_vmlinux_btf();
        int r;

        if (!btf)
                return neg_errno();
        r = want(o, count_parameters(btf, "bpf_lsm_inode_setattr") == 2 ? "on_setattr_2" : "on_setattr_3");
        if (r >= 0 && count_parameters(btf, "bpf_lsm_inode_set_acl") > 0)
                r = want(o, "on_set_acl");
        if (r >= 0 && count_parameters(btf, "bpf_lsm_file_ioctl_compat") > 0)
                r = want(o, "on_ioctl_compat");
        btf__free(btf);
        return r;
}

static int set_level(struct bpf_object *o, __u32 level)
{
        struct bpf_map *map;

        bpf_object__for_each_map(map, o)
        {
                int value = (int) level;

                if (strstr(bpf_map__name(map), ".rodata"))
                        return bpf_map__set_initial_value(map, &value, sizeof(value));
        }
        return -ENOENT;
}

static int attach(const Pins *p, struct bpf_object *o, __u32 *ret_n)
{
        struct bpf_program *program;
        __u32 n = 0;

        bpf_object__for_each_program(program, o)
        {
                char path[PATH_SIZE];
                struct bpf_link *link;
                int r;

                if (!bpf_program__autoload(program))
                        continue;
                link = bpf_program__attach_lsm(program);
                if (!link)
                        return log_error(neg_errno(), "cannot attach %s", bpf_program__name(program));
                r = pin_path(p, bpf_program__name(program), path);
                if (r >= 0)
                        r = bpf_link__pin(link, path);
                (void) bpf_link__destroy(link);
                if (r < 0)
                        return log_error(r, "cannot pin %s", bpf_program__name(program));
                n++;
        }
        *ret_n = n;
        return 0;
}

static int pin_maps(const Pins *p, struct bpf_object *o)
{
        for (size_t i = 0; i < ELEMENTSOF(shared_maps); i++) {
                char path[PATH_SIZE];
                int r = pin_path(p, shared_maps[i], path);

                if (r >= 0 && bpf_obj_pin(bpf_object__find_map_fd_by_name(o, shared_maps[i]), path) < 0)
                        r = neg_errno();
                if (r < 0)
                        return log_error(r, "cannot pin %s", shared_maps[i]);
        }
        return 0;
}

/* The maps first: while a program is attached that nobody tells anything it lets everything be. */
static int load(Pins *p, struct bpf_object *o)
{
        __u32 zero = 0;
        int r;

        r = choose(o);
        if (r >= 0)
                r = set_level(o, p->made.level);
        if (r >= 0)
                r = bpf_object__load(o);
        if (r < 0)
                return log_error(r, "cannot load the programs");
        r = pin_maps(p, o);
        if (r >= 0)
                r = attach(p, o, &p->made.n_links);
        if (r < 0)
                return r;
        return bpf_map_update_elem(bpf_object__find_map_fd_by_name(o, "made"), &zero, &p->made, BPF_ANY) < 0
                               ? neg_errno()
                               : 0;
}

static int load_anew(Pins *p)
{
        struct bpf_object *o = bpf_object__open_mem(protect_object, sizeof(protect_object), NULL);
        int r = o ? load(p, o) : log_error(neg_errno(), "cannot read the programs");

        bpf_object__close(o);
        if (r < 0)
                take_away(p);
        return r;
}

static int run(const char *name, __u32 level)
{
        static const uint8_t no_key[16] = { 0 };
        Pins p = { .fd = -EBADF, .made = { .level = level } };
        int r;

        p.made.digest = hash_siphash(no_key, protect_object, sizeof(protect_object));
        r = drop_rights();
        if (r < 0)
                return log_error(r, "cannot give up rights");
        r = open_folder(name, &p);
        if (r < 0)
                return log_error(r, "cannot use " FOLDER "/%s", name);
        if (is_the_same(&p))
                r = forget_sessions(&p);
        else {
                take_away(&p);
                p.fd = fd_close(p.fd);
                r = open_folder(name, &p);
                if (r >= 0)
                        r = load_anew(&p);
        }
        p.fd = fd_close(p.fd);
        return r;
}

int main(int argc, char **argv)
{
        uint64_t level;

        log_open("sandboxd-bpf");
        (void) libbpf_set_print(print);
        if (argc != 3 || parse_u64(argv[2], &level) < 0 || level == 0 || level > LEVEL_MAX) {
                (void) log_error(0, "usage: sandboxd-bpf NAME LEVEL");
                return 2;
        }
        return run(argv[1], (__u32) level) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
