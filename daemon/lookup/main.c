/*
 * sandboxd-lookup: a question, an answer, the end. The launcher starts it where a name service or a parser
 * is needed; started as root it first becomes the user that --uid and --gid name. Standard output carries
 * one struct, standard error one line per complaint.
 */

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "daemon/isolate/kernel.h"
#include "daemon/lookup/lookup.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define HOME_DEADLINE_USEC (6 * USEC_PER_SEC)
#define EXTRA_FD           3
#define SETTINGS_FD        4
#define SETTINGS_BYTES_MAX (1U << 20)
#define RESOLVER_BYTES_MAX (1U << 20)
#define HOSTS_BYTES_MAX    (8U << 20)

static int drop_privileges(uint32_t uid, uint32_t gid)
{
        if (geteuid() == 0) {
                if (uid == 0 || gid == 0)
                        return log_error(-EPERM,
                                         "started as root without --uid and --gid of an ordinary user");
                if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
                        return log_error(neg_errno(), "cannot become uid %u", uid);
                if (setresuid(0, 0, 0) == 0)
                        return log_error(-EPERM, "privileges came back");
        }
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                return log_error(neg_errno(), "cannot set no_new_privs");
        return 0;
}

/* Root's own files are root's to read without any of them. */
static int drop_capabilities(void)
{
        if (kernel_capset(0, 0, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                return log_error(neg_errno(), "cannot drop capabilities");
        return 0;
}

static int answer(const void *data, size_t size)
{
        int r = fd_write_all(STDOUT_FILENO, data, size);

        return r < 0 ? log_error(r, "cannot write the answer") : 0;
}

static int ask_identity(const LookupCall *call)
{
        return lookup_identity(call->uid, call->answer);
}

static int ask_home(const LookupCall *call)
{
        return lookup_home(call->answer);
}

/* A file system on the way may not answer either. */
static void find_home(PrivIdentity *identity)
{
        _cleanup_free_ PrivIdentity *found = malloc(sizeof(*found));

        if (found)
                *found = *identity;
        if (found && lookup_in_child(&(LookupCall){ .ask = ask_home,
                                                    .answer = found,
                                                    .size = sizeof(*found),
                                                    .deadline_usec = HOME_DEADLINE_USEC }) >= 0)
                *identity = *found;
        else
                (void) log_warning(0, "the home of uid %u is not looked at: known by its name alone",
                                   identity->uid);
}

static int ask_workers(const LookupCall *call)
{
        const char *missing = "";
        int r = lookup_workers(call->answer, &missing);

        return r < 0 ? log_error(r, "cannot find the account %s; the package creates it", missing) : 0;
}

static int run_identity(const char *argument)
{
        PrivIdentity identity = { 0 };
        uint32_t uid = 0;
        int r;

        r = argument ? parse_u32(argument, &uid) : -EINVAL;
        if (r < 0)
                return log_error(r, "identity: expected a uid");
        r = lookup_within(&(LookupCall){
                        .ask = ask_identity, .answer = &identity, .size = sizeof(identity), .uid = uid });
        if (r < 0)
                return log_error(r, "cannot look up uid %u", uid);
        find_home(&identity);
        return answer(&identity, sizeof(identity));
}

static int run_workers(const char *argument)
{
        PrivWorkerIds ids = { 0 };
        int r;

        (void) argument;
        r = lookup_within(&(LookupCall){ .ask = ask_workers, .answer = &ids, .size = sizeof(ids) });
        return r < 0 ? log_error(r, "cannot look up the accounts of the workers")
                     : answer(&ids, sizeof(ids));
}

/* load [UID]: of root's sessions, where a daemon runs that has one. */
static int run_load(const char *argument)
{
        _cleanup_free_ char *text = NULL;
        _cleanup_free_ PrivLoaded *loaded = calloc(1, sizeof(*loaded));
        PrivSettings running = { 0 };
        size_t size = 0;
        int r = loaded ? 0 : -ENOMEM;

        if (r >= 0 && argument)
                r = parse_u32(argument, &running.root_session_uid);
        /* No descriptor: there is no such file. */
        if (r >= 0 && fcntl(SETTINGS_FD, F_GETFD) >= 0)
                r = fd_read_all(SETTINGS_FD, SETTINGS_BYTES_MAX, &text, &size);
        if (r >= 0)
                r = lookup_load(EXTRA_FD, text, size, argument ? &running : NULL, loaded);
        return r < 0 ? log_error(r, "cannot read settings and profiles") : answer(loaded, sizeof(*loaded));
}

/* An absent file is an empty one. */
static int read_file(const char *path, size_t size_max, char **ret, size_t *ret_size)
{
        _cleanup_close_ int fd = -EBADF;
        int r;

        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (fd < 0) {
                r = neg_errno();
                if (r == -ENOENT)
                        return str_dup("", ret);
                return log_error(r, "cannot open %s", path);
        }
        r = fd_read_all(fd, size_max, ret, ret_size);
        return r < 0 ? log_error(r, "cannot read %s", path) : 0;
}

static int write_hosts(void)
{
        _cleanup_(buf_done) Buf b = BUF_INIT(HOSTS_BYTES_MAX);
        _cleanup_free_ char *text = NULL;
        size_t size = 0;
        int r;

        r = read_file("/etc/hosts", HOSTS_BYTES_MAX / 2, &text, &size);
        if (r < 0)
                return r;
        r = lookup_hosts(text, size, &b);
        if (r >= 0)
                r = fd_write_all(EXTRA_FD, buf_front(&b), buf_size(&b));
        return r < 0 ? log_error(r, "cannot write the hosts table") : 0;
}

static int run_resolver(const char *argument)
{
        _cleanup_free_ char *text = NULL;
        PrivResolver resolver;
        size_t size = 0;
        int r;

        (void) argument;
        r = read_file("/etc/resolv.conf", RESOLVER_BYTES_MAX, &text, &size);
        if (r < 0)
                return r;
        lookup_servers(text, size, &resolver);
        if (fcntl(EXTRA_FD, F_GETFD) >= 0) {
                r = write_hosts();
                if (r < 0)
                        return r;
        }
        return answer(&resolver, sizeof(resolver));
}

/* Here the child has rights: those of the owner of a session. */
static int run_report(const char *argument)
{
        int r = lookup_report(argument, STDOUT_FILENO);

        return r < 0 ? log_error(r, "cannot look through a workspace") : 0;
}

static const struct {
        const char *name;
        int (*run)(const char *argument);
} questions[] = {
        { "identity", run_identity }, { "workers", run_workers }, { "load", run_load },
        { "resolver", run_resolver }, { "report", run_report },
};

static int ask(const char *name, const char *argument)
{
        for (size_t i = 0; i < ELEMENTSOF(questions); i++)
                if (str_equal(questions[i].name, name))
                        return questions[i].run(argument);
        return log_error(-EINVAL, "no such question: %s", name);
}

int main(int argc, char **argv)
{
        uint32_t uid = 0, gid = 0;
        int i = 1;

        log_open("sandboxd-lookup");
        for (; i + 1 < argc && str_has_prefix(argv[i], "--"); i += 2) {
                uint32_t *to = str_equal(argv[i], "--uid")   ? &uid
                               : str_equal(argv[i], "--gid") ? &gid
                                                             : NULL;

                if (!to || parse_u32(argv[i + 1], to) < 0) {
                        (void) log_error(-EINVAL, "bad option %s", argv[i]);
                        return 1;
                }
        }
        if (i >= argc) {
                (void) log_error(-EINVAL,
                                 "expected identity UID, workers, load, resolver or report USEC:FOLDER");
                return 1;
        }
        if ((str_equal(argv[i], "report") && geteuid() == 0 && uid == 0 ? drop_capabilities()
                                                                        : drop_privileges(uid, gid)) < 0)
                return 1;
        return ask(argv[i], i + 1 < argc ? argv[i + 1] : NULL) < 0 ? 1 : 0;
}
