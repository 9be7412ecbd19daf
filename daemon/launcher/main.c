#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "daemon/launcher/blank.h"
#include "daemon/launcher/inside.h"
#include "daemon/launcher/launcher.h"
#include "daemon/launcher/leftover.h"
#include "daemon/launcher/listen.h"
#include "daemon/launcher/load.h"
#include "daemon/launcher/lookup.h"
#include "daemon/launcher/pings.h"
#include "daemon/launcher/reload.h"
#include "daemon/launcher/session.h"
#include "daemon/launcher/setup.h"
#include "daemon/launcher/user.h"
#include "daemon/launcher/worker.h"
#include "proto/base/clock.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define MAIN_UMASK 0077

static const char *directory_from(const char *variable, const char *fallback)
{
        const char *value = secure_getenv(variable);

        return value && value[0] == '/' ? value : fallback;
}

static int usage(FILE *to, int status)
{
        (void) fputs("usage: sandboxd [--config-dir D] [--state-dir D] [--runtime-dir D]\n"
                     "                [--libexec-dir D] [--policy-dir D] [--print-ready]\n",
                     to);
        return status;
}

/* 0: go on; > 0: end with this status less one. */
static int parse_arguments(int argc, char **argv, Config *c)
{
        static const struct option options[] = {
                { "config-dir", required_argument, NULL, 'c' },
                { "state-dir", required_argument, NULL, 's' },
                { "runtime-dir", required_argument, NULL, 'r' },
                { "libexec-dir", required_argument, NULL, 'l' },
                { "policy-dir", required_argument, NULL, 'p' },
                { "print-ready", no_argument, NULL, 'R' },
                { "help", no_argument, NULL, 'h' },
                { "version", no_argument, NULL, 'V' },
                { NULL, 0, NULL, 0 },
        };
        int option;

        while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
                switch (option) {
                case 'c':
                        c->config_dir = optarg;
                        break;
                case 's':
                        c->state_dir = optarg;
                        break;
                case 'r':
                        c->runtime_dir = optarg;
                        break;
                case 'l':
                        c->libexec_dir = optarg;
                        break;
                case 'p':
                        c->policy_dir = optarg;
                        break;
                case 'R':
                        c->prints_ready = true;
                        break;
                case 'V':
                        (void) puts("sandboxd " SANDBOXD_VERSION);
                        return 1 + EXIT_SUCCESS;
                case 'h':
                        return 1 + usage(stdout, EXIT_SUCCESS);
                default:
                        return 1 + usage(stderr, 2);
                }
        }
        return optind == argc ? 0 : 1 + usage(stderr, 2);
}

static bool directories_are_absolute(const Config *c)
{
        const char *const all[] = { c->config_dir, c->state_dir, c->runtime_dir, c->libexec_dir,
                                    c->policy_dir };

        for (size_t i = 0; i < ELEMENTSOF(all); i++) {
                if (all[i][0] != '/' || strlen(all[i]) >= PRIV_TEXT_SIZE) {
                        (void) log_error(0, "%s is not an absolute path, or too long", all[i]);
                        return false;
                }
        }
        return true;
}

static void launcher_done(Launcher *l)
{
        sessions_free(l);
        users_free(l);
        blanks_stop(l);
        pings_stop(l);
        worker_retire(l->audit);
        worker_retire(l->dialer);
        for (size_t i = 0; i < ELEMENTSOF(l->pool); i++)
                worker_retire(l->pool[i]);
        workers_end(l);
        listen_close(l);
        inside_free_all(l);
        l->resolver_lookup = lookup_free(l->resolver_lookup);
        reload_free(l);
        l->loading = loading_free(l->loading);
        l->watch_io = loop_io_free(l->watch_io);
        l->watch_timer = loop_timer_free(l->watch_timer);
        l->stop_timer = loop_timer_free(l->stop_timer);
        l->pool_timer = loop_timer_free(l->pool_timer);
        l->watch_timer_again = loop_timer_free(l->watch_timer_again);
        l->watch_ping_timer = loop_timer_free(l->watch_ping_timer);
        for (size_t i = 0; i < ELEMENTSOF(l->signals); i++)
                l->signals[i] = loop_signal_free(l->signals[i]);
        l->watch_fd = fd_close(l->watch_fd);
        l->hosts_fd = fd_close(l->hosts_fd);
        l->profiles_fd = fd_close(l->profiles_fd);
        leftover_done(l);
        l->loop = loop_free(l->loop);
}

static int run(const Config *config, Kernel *kernel)
{
        Launcher l = { .config = config,
                       .kernel = kernel,
                       .hosts_fd = -EBADF,
                       .profiles_fd = -EBADF,
                       .homes_fd = -EBADF,
                       .listen_fd = -EBADF,
                       .reserve_fd = -EBADF,
                       .runtime_fd = -EBADF,
                       .lock_fd = -EBADF,
                       .watch_fd = -EBADF,
                       .log_level = LOG_LEVEL_INFO,
                       .started_usec = clock_realtime_usec() };
        int r;

        list_init(&l.workers);
        list_init(&l.inside);
        list_init(&l.endings);
        list_init(&l.leftovers);
        r = loop_new(&l.loop);
        if (r < 0)
                return log_error(r, "cannot make the event loop");
        r = leftover_open(&l);
        if (r >= 0)
                r = id_random(&l.instance);
        if (r < 0)
                (void) log_error(r, "cannot prepare");
        if (r >= 0)
                r = launcher_start(&l);
        if (r >= 0)
                r = loop_run(l.loop);
        launcher_done(&l);
        return r;
}

int main(int argc, char **argv)
{
        Config config = { .config_dir = directory_from("CONFIGURATION_DIRECTORY", "/etc/sandboxd"),
                          .state_dir = directory_from("STATE_DIRECTORY", "/var/lib/sandboxd"),
                          .runtime_dir = directory_from("RUNTIME_DIRECTORY", "/run/sandboxd"),
                          .libexec_dir = SANDBOXD_LIBEXEC_DIR,
                          .policy_dir = SANDBOXD_POLICY_DIR };
        struct sigaction ignore = { .sa_handler = SIG_IGN };
        Kernel kernel = { .null_fd = -EBADF,
                          .network_fd = -EBADF,
                          .diag_fd = -EBADF,
                          .proc_fd = -EBADF,
                          .mount_fd = -EBADF,
                          .template_fd = -EBADF,
                          .session_filter_fd = -EBADF,
                          .command_filter_fd = -EBADF };
        int r;

        for (size_t i = 0; i < ELEMENTSOF(kernel.program_fds); i++)
                kernel.program_fds[i] = -EBADF;
        log_open("sandboxd");
        r = parse_arguments(argc, argv, &config);
        if (r > 0)
                return r - 1;
        if (!directories_are_absolute(&config))
                return 2;
        (void) umask(MAIN_UMASK);
        if (sigaction(SIGPIPE, &ignore, NULL) < 0)
                return EXIT_FAILURE;
        r = setup_check_capabilities();
        if (r >= 0)
                r = setup_kernel(&config, &kernel);
        if (r >= 0) {
                r = setup_drop_capabilities();
                if (r < 0)
                        (void) log_error(r, "cannot give up capabilities");
        }
        if (r >= 0)
                r = run(&config, &kernel);
        kernel_done(&kernel);
        return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
