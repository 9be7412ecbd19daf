/*
 * Runs a command in a session of its own, with this program's standard input and outputs, and ends as it
 * does:
 *
 *      cc -o run run.c $(pkg-config --cflags --libs libsandboxd)
 *      ./run ls -l
 */

#include <errno.h>
#include <limits.h>
#include <sandboxd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FAILURE 125

static int say(const char *what, int r)
{
        fprintf(stderr, "run: %s: %s\n", what, strerror(-r));
        return FAILURE;
}

/* {"commandLine":[...],"standardInput":"file_descriptor",...} */
static int make_command(int argc, char *argv[], SandboxdValue **ret)
{
        static const char *const streams[] = { "standardInput", "standardOutput", "standardError" };
        SandboxdValue *command, *words;
        int r;

        r = sandboxd_value_new_object(&command);
        if (r < 0)
                return r;
        r = sandboxd_value_new_array(&words);
        for (int i = 0; r >= 0 && i < argc; i++)
                r = sandboxd_value_append_string(words, argv[i]);
        if (r >= 0)
                r = sandboxd_value_set(command, "commandLine", words);
        for (size_t i = 0; r >= 0 && i < sizeof(streams) / sizeof(streams[0]); i++)
                r = sandboxd_value_set_string(command, streams[i], "file_descriptor");
        if (r < 0) {
                sandboxd_value_unref(command);
                return r;
        }
        *ret = command;
        return 0;
}

/* The descriptors go with the call in the order 0, 1, 2: each field holds its index. */
static int make_parameters(int argc, char *argv[], SandboxdValue **ret)
{
        SandboxdValue *parameters, *context, *command;
        char folder[PATH_MAX];
        int r;

        if (!getcwd(folder, sizeof(folder)))
                return -errno;
        r = sandboxd_value_new_object(&parameters);
        if (r < 0)
                return r;
        r = sandboxd_value_new_object(&context);
        if (r >= 0)
                r = sandboxd_value_set(parameters, "context", context);
        if (r >= 0)
                r = sandboxd_value_set_string(context, "workspace", folder);
        if (r >= 0)
                r = make_command(argc, argv, &command);
        if (r >= 0)
                r = sandboxd_value_set(parameters, "command", command);
        if (r >= 0)
                r = sandboxd_value_set_integer(parameters, "standardInputFileDescriptor", 0);
        if (r >= 0)
                r = sandboxd_value_set_integer(parameters, "standardOutputFileDescriptor", 1);
        if (r >= 0)
                r = sandboxd_value_set_integer(parameters, "standardErrorFileDescriptor", 2);
        if (r < 0) {
                sandboxd_value_unref(parameters);
                return r;
        }
        *ret = parameters;
        return 0;
}

/* Spawn replies when the command runs, and again when it has ended. */
static int wait_for_end(SandboxdClient *client)
{
        SandboxdReply reply = SANDBOXD_REPLY_INIT;
        const SandboxdValue *result;
        bool has_more;
        int status = FAILURE, r;

        do {
                r = sandboxd_next(client, &reply);
                if (r < 0)
                        return say("waiting for the command", r);
                if (reply.error)
                        fprintf(stderr, "run: %s\n", reply.error);
                result = sandboxd_value_get(reply.parameters, "result");
                if (sandboxd_value_type(sandboxd_value_get(result, "exitCode")) == SANDBOXD_INTEGER)
                        status = (int) sandboxd_value_integer(sandboxd_value_get(result, "exitCode"));
                has_more = reply.has_more;
                sandboxd_reply_done(&reply);
        } while (has_more);
        return status;
}

int main(int argc, char *argv[])
{
        SandboxdClient *client;
        SandboxdValue *parameters;
        int status, r;

        if (argc < 2) {
                fprintf(stderr, "usage: run COMMAND [ARG...]\n");
                return FAILURE;
        }
        r = sandboxd_connect(NULL, &client);
        if (r < 0)
                return say("no sandboxd", r);
        r = make_parameters(argc - 1, argv + 1, &parameters);
        if (r >= 0) {
                r = sandboxd_send(client, "io.sandboxd.Session.Spawn", parameters, SANDBOXD_MORE,
                                  (int[]){ STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO }, 3);
                sandboxd_value_unref(parameters);
        }
        status = r < 0 ? say("asking for the session", r) : wait_for_end(client);
        sandboxd_client_free(client);
        return status;
}
