/* logs: what commands with mode log have written, each stream to the one of ours. */

#include <unistd.h>

#include "client/ctl/ctl.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

static int digit(char c)
{
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const char *p = c ? strchr(digits, c) : NULL;

        return p ? (int) (p - digits) : -EINVAL;
}

/* Over its own text, which is longer. -EINVAL: no base64. */
static int decode(char *text, size_t *ret_size)
{
        size_t n = strlen(text), out = 0;
        unsigned bits = 0;

        while (n > 0 && text[n - 1] == '=')
                n--;
        for (size_t i = 0; i < n; i++) {
                int d = digit(text[i]);

                if (d < 0)
                        return -EINVAL;
                bits = (bits << 6 | (unsigned) d) & 0xffffff;
                if (i % 4 != 0)
                        text[out++] = (char) (unsigned char) (bits >> (6 - 2 * (i % 4)) & 0xff);
        }
        *ret_size = out;
        return 0;
}

static int show(const Json *parameters)
{
        _cleanup_free_ char *data = NULL;
        const char *text = text_of(parameters, "data"), *stream = text_of(parameters, "stream");
        int64_t dropped = integer_of(parameters, "droppedBytes");
        int fd = stream && str_equal(stream, "stderr") ? STDERR_FILENO : STDOUT_FILENO;
        size_t size;

        if (dropped > 0)
                (void) fail("%lld bytes before this are not kept any more", (long long) dropped);
        if (!text)
                return 0;
        if (str_dup(text, &data) < 0)
                return fail("out of memory");
        if (decode(data, &size) < 0)
                return fail("the daemon's answer makes no sense: do its version and this one's fit?");
        /* Nobody reads any more: nothing to say, and nobody to say it to. */
        return fd_write_all(fd, data, size) < 0 ? EXIT_OURS : 0;
}

static int show_output(const Common *common, const Json *parameters, _unused_ void *userdata)
{
        if (!common->has_json)
                return show(parameters);
        return !text_of(parameters, "data") || print_json(STDOUT_FILENO, parameters) ? 0 : EXIT_OURS;
}

int verb_logs(Common *common, int argc, char *argv[])
{
        static const struct option options[] = { { "follow", no_argument, NULL, 'f' },
                                                 { "tail", required_argument, NULL, 't' },
                                                 COMMON_OPTIONS };
        _cleanup_(sandboxd_client_freep) SandboxdClient *client = NULL;
        _cleanup_json_ Json *p = NULL;
        bool is_following = false;
        uint64_t tail = UINT64_MAX;
        int c, status, r;

        while ((c = next_option(common, argc, argv, "f", options)) >= 0) {
                if (c == 'f')
                        is_following = true;
                else if (c != 't')
                        return EXIT_OURS;
                else if (parse_size(optarg, &tail) < 0 || tail > INT64_MAX)
                        return fail("%s: not a size; write for example 64K", optarg);
        }
        if (argc - optind < 1 || argc - optind > 2)
                return fail("logs takes a session, and perhaps one of its commands: `sandboxctl logs ID`");
        status = new_parameters("id", argv[optind], &p);
        if (status != 0)
                return status;
        if ((optind + 1 < argc && json_set_string(p, "process", argv[optind + 1]) < 0) ||
            (is_following && json_set_boolean(p, "follow", true) < 0) ||
            (tail != UINT64_MAX && json_set_integer(p, "tailBytes", (int64_t) tail) < 0))
                return fail("out of memory");
        status = ctl_connect(common, &client);
        if (status != 0)
                return status;
        r = sandboxd_send(client, SESSION "Logs", p, SANDBOXD_MORE, NULL, 0);
        return r < 0 ? fail_call(common, r) : ctl_show_replies(common, client, show_output, NULL);
}
