#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "client/ctl/ctl.h"
#include "client/ctl/help.h"
#include "proto/base/str.h"

typedef struct Verb {
        const char *name;
        const char *help;      /* NULL: as name */
        VerbFunction function; /* NULL: of a later version */
} Verb;

static const Verb verbs[] = {
        { "run", NULL, verb_run },
        { "create", NULL, verb_create },
        { "exec", NULL, verb_exec },
        { "list", NULL, verb_list },
        { "ps", "list", verb_list },
        { "describe", NULL, verb_describe },
        { "wait", NULL, verb_wait },
        { "signal", NULL, verb_signal },
        { "terminate", NULL, verb_terminate },
        { "remove", NULL, verb_remove },
        { "prune", NULL, verb_prune },
        { "audit", NULL, verb_audit },
        { "policy", NULL, verb_policy },
        { "status", NULL, verb_status },
        { "shell", NULL, verb_shell },
        { "attach", NULL, verb_attach },
        { "logs", NULL, verb_logs },
        { "cp", NULL, NULL },
        { "freeze", NULL, verb_freeze },
        { "thaw", NULL, verb_thaw },
        { "update", NULL, NULL },
        { "forward", NULL, verb_forward },
        { "diff", NULL, NULL },
        { "commit", NULL, NULL },
        { "discard", NULL, NULL },
        { "report", NULL, verb_report },
        { "approvals", NULL, NULL },
        { "grants", NULL, NULL },
        { "events", NULL, verb_events },
        { "doctor", NULL, verb_doctor },
        { "drain", NULL, verb_drain },
};

static bool wants_help(int argc, char *argv[])
{
        return argc >= 2 && (str_equal(argv[1], "--help") || str_equal(argv[1], "-h"));
}

static int show_help(void)
{
        bool is_shown = print("%s", help_overview);

        for (size_t i = 0; is_shown && help_at(i); i++)
                is_shown = print("\n\n%s", help_at(i));
        return is_shown ? 0 : EXIT_OURS;
}

static int run_verb(const Verb *v, Common *common, int argc, char *argv[])
{
        if (!v->function)
                return fail("%s is not available in this version", v->name);
        if (wants_help(argc, argv))
                return print("%s", help_of(v->help ? v->help : v->name)) ? 0 : EXIT_OURS;
        return v->function(common, argc, argv);
}

int main(int argc, char *argv[])
{
        static const struct option options[] = { { "version", no_argument, NULL, 'V' }, COMMON_OPTIONS };
        struct sigaction ignore = { .sa_handler = SIG_IGN };
        Common common = { 0 };
        int c;

        (void) sigaction(SIGPIPE, &ignore, NULL);
        /* The JSON parser asks for the locale "C", for which nobody's folder is needed; glibc keeps a copy
         * of this variable each time. */
        (void) unsetenv("LOCPATH");
        while ((c = next_option(&common, argc, argv, "+hV", options)) >= 0) {
                if (c == 'V')
                        return print("sandboxctl %s\n", SANDBOXD_VERSION) ? 0 : EXIT_OURS;
                if (c == OPTION_HELP || c == 'h')
                        return show_help();
                return EXIT_OURS;
        }
        if (optind >= argc) {
                (void) fail("which verb? `sandboxctl --help` lists them");
                return EXIT_OURS;
        }
        argc -= optind;
        argv += optind;
        optind = 0; /* begin anew, with another vector */
        for (size_t i = 0; i < ELEMENTSOF(verbs); i++) {
                if (str_equal(verbs[i].name, argv[0]))
                        return run_verb(&verbs[i], &common, argc, argv);
        }
        return fail("no verb %s: `sandboxctl --help` lists them", argv[0]);
}
