#include "client/ctl/help.h"

#include "proto/base/str.h"

#define COMMON_TEXT                                                                        \
        "  --address ADDRESS    unix:/path of the daemon's socket (or SANDBOXD_ADDRESS)\n" \
        "  --json               one JSON object a line\n"

#define SESSION_TEXT                                                                             \
        "  -p NAME|FILE         profile (default: agent); FILE holds a slash or ends in .json\n" \
        "  -w DIR               workspace (default: the current folder)\n"                       \
        "  --read P             show P, read-only\n"                                             \
        "  --write P            show P, writable\n"                                              \
        "  --deny P             hide P\n"                                                        \
        "  --allow-host H[:PORT]\n"                                                              \
        "  --deny-host H[:PORT]\n"                                                               \
        "  --no-network         deny every connection\n"                                         \
        "  --home HOW           empty, persistent (kept for workspace and profile) or masked\n"  \
        "  --publish PORT       the host's loopback reaches PORT inside\n"                       \
        "  --env K[=V]          set K inside; without a value, yours\n"                          \
        "  --env-file F         lines NAME=VALUE\n"                                              \
        "  --workdir D          where the command starts (default: the workspace)\n"             \
        "  --name N             name of the session, unique among yours\n"                       \
        "  --label KEY=VALUE    for `list --label`; may be given again\n"                        \
        "  --runtime T          end the session after T\n"                                       \
        "  --idle T             end it after T without a command and without anybody attached\n" \
        "  --memory N           bytes, with K, M, G\n"                                           \
        "  --tasks N            processes and threads\n"                                         \
        "  --cpu N%             100% is one processor\n"                                         \
        "  --timeout T          end the command after T (500ms, 30s, 5m, 2h)\n"

const char help_overview[] = "usage: sandboxctl VERB [OPTION…] [ARG…]\n"
                             "\n"
                             "  run [--] COMMAND…    run a command in a session of its own\n"
                             "  create               make a session; prints its id\n"
                             "  exec ID [--] COMMAND…\n"
                             "                       run a command in a session\n"
                             "  shell [ID]           your shell, in a session of its own or in that one\n"
                             "  attach ID            the streams of a command that runs\n"
                             "  forward ID PORT      a port of yours that leads to one of a session\n"
                             "  logs [-f] ID         what commands have written\n"
                             "  list (ps)            your sessions\n"
                             "  describe ID          one session in full\n"
                             "  wait ID              wait for a session's end\n"
                             "  signal ID SIGNAL     signal the command started last\n"
                             "  freeze ID, thaw ID   stop a session's processes, let them go on\n"
                             "  terminate ID|--all   end sessions\n"
                             "  remove ID            forget a session that has ended\n"
                             "  prune                forget all that have ended\n"
                             "  audit log            what was decided\n"
                             "  policy list|show|validate|check\n"
                             "  events               what happened to your sessions\n"
                             "  status               the daemon\n"
                             "  doctor               what this machine can enforce\n"
                             "  drain                take no new sessions\n"
                             "\n"
                             "Every verb takes\n" COMMON_TEXT "  --help               its help\n";

static const struct {
        const char *verb;
        const char *text;
} texts[] = {
        { "run",
          "usage: sandboxctl run [OPTION…] [--] COMMAND [ARG…]\n\n"
          "Runs a command in a new session, which ends with it.\n\n" SESSION_TEXT
          "  -t, -T               with, without a terminal inside (default: when both ends are terminals)\n"
          "  -c STRING            run STRING with the shell\n"
          "  --detach             do not wait; prints the session's id; output goes to its log\n"
          "  --keep               keep the session's record when it has ended\n"
          "  --stats              say at the end how long it took\n"
          "  -q                   do not list what was denied\n" COMMON_TEXT
          "\nExit status: the command's own; 128+N for signal N; 124 time-out; 125 sandboxd's own failure;\n"
          "126 not executable; 127 not found.\n" },
        { "create", "usage: sandboxctl create [OPTION…]\n\nMakes a session without a command and prints its "
                    "id.\n\n" SESSION_TEXT COMMON_TEXT },
        { "forward",
          "usage: sandboxctl forward [OPTION…] ID PORT\n\nListens on 127.0.0.1, and connects each of your programs that "
          "comes there to PORT in the session,\nuntil the session ends.\n\n"
          "  --local-port PORT    where to listen (default: the same port; 0: any)\n" COMMON_TEXT },
        { "exec",
          "usage: sandboxctl exec [OPTION…] ID [--] COMMAND [ARG…]\n\nRuns a command in a session, which "
          "stays.\n\n"
          "  -t, -T               with, without a terminal inside\n"
          "  --timeout T          end the command after T; the session stays\n"
          "  --env K[=V]          set K inside; without a value, yours\n"
          "  --env-file F         lines NAME=VALUE\n"
          "  --workdir D          where the command starts\n"
          "  -q                   do not list what was denied\n" COMMON_TEXT },
        { "shell",
          "usage: sandboxctl shell [OPTION…]\n       sandboxctl shell ID [OPTION…]\n\nYour login shell: in a new "
          "session, with the options of run, or in that one, with those\nof exec.\n\n" COMMON_TEXT },
        { "attach",
          "usage: sandboxctl attach [OPTION…] ID [PROCESS]\n\nConnects to a command whose streams the daemon "
          "carries: one with a terminal, or one that was\nstarted with --detach. It goes on when you leave; at a "
          "terminal Ctrl-P Ctrl-Q does so.\n\n"
          "  --read-only          only watch\n"
          "  --replay N           first the last N bytes that are kept (default: what nobody has read)\n"
          "  --hang-up            end the command when you leave\n" COMMON_TEXT
          "\nExit status: the command's own; 0 when you left it.\n" },
        { "logs",
          "usage: sandboxctl logs [OPTION…] ID [PROCESS]\n\nWhat commands started with --detach have "
          "written, as far as it is kept.\n\n"
          "  -f, --follow         go on until the session ends\n"
          "  --tail N             only the last N bytes\n" COMMON_TEXT },
        { "list",
          "usage: sandboxctl list [-a] [--state STATE] [--label KEY=VALUE] [--all-users|--of USER]\n\n"
          "Your sessions, oldest "
          "first, with their age and how many commands run.\n\n"
          "  -a                   also those that have ended\n"
          "  --state STATE        those in this state: running, frozen, stopping, exited, failed\n"
          "  --label KEY=VALUE    those with this label; all that are given must match\n"
          "  --all-users          everybody's: for root and the group sandboxd-admins\n"
          "  --of USER            that user's\n" COMMON_TEXT },
        { "describe", "usage: sandboxctl describe ID\n\nOne session in full.\n\n" COMMON_TEXT },
        { "report",
          "usage: sandboxctl report [--markdown] ID\n\nWhat a session did and what it leaves in its workspace, at its "
          "end or so far.\n\n"
          "  --markdown           as a page in Markdown\n" COMMON_TEXT },
        { "wait", "usage: sandboxctl wait ID [PROCESS]\n\nWaits for the end of a session, or of one of its "
                  "commands.\n\n" COMMON_TEXT },
        { "signal",
          "usage: sandboxctl signal [--all] ID SIGNAL\n\nSignals the command that was started last.\n\n"
          "  --all                all processes of the session\n" COMMON_TEXT },
        { "freeze",
          "usage: sandboxctl freeze ID\n\nStops all processes of a session where they are.\n\n" COMMON_TEXT },
        { "thaw", "usage: sandboxctl thaw ID\n\nLets a frozen session go on.\n\n" COMMON_TEXT },
        { "terminate",
          "usage: sandboxctl terminate [--grace T] ID|--all|--of USER\n\nEnds a session: SIGTERM, then after the"
          " grace time (10s) all is killed.\n\n"
          "  --all                all of yours; for root and the group sandboxd-admins everybody's\n"
          "  --of USER            all of that user's\n"
          "  --grace T            0: at once\n" COMMON_TEXT },
        { "remove", "usage: sandboxctl remove ID\n\nForgets a session that has ended.\n\n" COMMON_TEXT },
        { "prune", "usage: sandboxctl prune [--older T]\n\nForgets all of your sessions that have "
                   "ended.\n\n" COMMON_TEXT },
        { "audit",
          "usage: sandboxctl audit log [OPTION…]\n"
          "       sandboxctl audit verify [OPTION…]\n\n"
          "log: what was decided, oldest first. verify: whether the rows are still those that were\n"
          "written; status 1: they are not. For root and the group sandboxd-auditors.\n\n"
          "  --session ID         id or name\n"
          "  --since T            2026-11-21, 2026-11-21T10:00:00Z, or 10m for ten minutes ago\n"
          "  --until T\n"
          "  --decision D         allow, deny, ask\n"
          "  --kind K             session, net, dns, policy, admin, …\n"
          "  --host H             NAME, *.NAME or an address\n"
          "  --user U\n"
          "  --rule R\n"
          "  -n N                 the newest N\n"
          "  -f, --follow         go on with what comes\n\n"
          "of verify:\n"
          "  --head SEQ:HASH      a row that was kept elsewhere: the log must hold it still\n"
          "  --pubkey HEX         the key to trust, instead of the one that the log names\n"
          "  --from N, --to N     these rows only\n" COMMON_TEXT },
        { "policy",
          "usage: sandboxctl policy list\n"
          "       sandboxctl policy show [--effective] NAME\n"
          "       sandboxctl policy validate [--kind KIND] FILE\n"
          "       sandboxctl policy check [-p NAME|FILE] [-w DIR] [-X METHOD] net URL\n"
          "       sandboxctl policy check [-p NAME|FILE] [-w DIR] file read|write PATH\n\n"
          "validate: KIND is profile (default), user, project, ceiling or settings; status 1: not valid.\n"
          "check: status 0: allowed, 1: denied.\n"
          "  -X, --method METHOD  of an http:// URL; GET where it is absent\n\n" COMMON_TEXT },
        { "events",
          "usage: sandboxctl events [OPTION…]\n\nWhat happened to your sessions, oldest first, as far back as it"
          " is kept.\n\n"
          "  -f, --follow         go on with what comes\n"
          "  --session ID         of this session (id or name; may be repeated)\n"
          "  --kind K             a kind, or the part before its dot (may be repeated)\n"
          "  --cursor CURSOR      after this one; --json shows them\n" COMMON_TEXT },
        { "doctor",
          "usage: sandboxctl doctor\n\nWhat this kernel and machine can enforce, and whether the daemon's parts "
          "are well.\nExit status 1: something is missing without which no session can start.\n\n" COMMON_TEXT },
        { "drain",
          "usage: sandboxctl drain [--grace T] | --cancel\n\nTakes no new sessions; waits for the end of the"
          " last one and prints how many are\nleft. For root and the group sandboxd-admins.\n\n"
          "  --grace T            wait no longer than T\n"
          "  --cancel             take new sessions again\n" COMMON_TEXT },
        { "status", "usage: sandboxctl status\n\nThe daemon, and how it sees you.\n\n" COMMON_TEXT },
};

const char *help_at(size_t i)
{
        return i < ELEMENTSOF(texts) ? texts[i].text : NULL;
}

const char *help_of(const char *verb)
{
        for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
                if (str_equal(texts[i].verb, verb))
                        return texts[i].text;
        }
        return NULL;
}
