/* audit verify */

#include <string.h>
#include <unistd.h>

#include "client/ctl/ctl.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define EXIT_BAD 1

static const struct option verify_options[] = {
        { "head", required_argument, NULL, 'h' },
        { "pubkey", required_argument, NULL, 'k' },
        { "from", required_argument, NULL, 'f' },
        { "to", required_argument, NULL, 't' },
        COMMON_OPTIONS,
};

static int set_sequence(Json *p, const char *key, const char *text)
{
        uint64_t n;

        if (parse_u64(text, &n) < 0 || n == 0 || n > INT64_MAX)
                return fail("%s: not the number of a row", text);
        return json_set_integer(p, key, (int64_t) n) < 0 ? fail("out of memory") : 0;
}

static int set_hex(Json *p, const char *key, const char *text)
{
        uint8_t bytes[32];

        if (parse_hex(text, bytes, sizeof(bytes)) < 0)
                return fail("%s: not 64 hex digits", text);
        return json_set_string(p, key, text) < 0 ? fail("out of memory") : 0;
}

/* SEQUENCE:HASH, as the last line of a verification has it. */
static int set_head(Json *p, char *text)
{
        char *colon = strchr(text, ':');
        int status;

        if (!colon)
                return fail("%s: not SEQUENCE:HASH", text);
        *colon = '\0';
        status = set_sequence(p, "headSequence", text);
        return status != 0 ? status : set_hex(p, "headHash", colon + 1);
}

static int apply(Json *p, int c, char *value)
{
        switch (c) {
        case 'h':
                return set_head(p, value);
        case 'k':
                return set_hex(p, "publicKey", value);
        case 'f':
                return set_sequence(p, "fromSequence", value);
        case 't':
                return set_sequence(p, "toSequence", value);
        default:
                return EXIT_OURS;
        }
}

static bool show_bad(const Json *v)
{
        const char *message = text_of(v, "message");

        return print("row %lld: %s\nthe log does not hold: %lld rows before it were checked\n",
                     (long long) integer_of(v, "firstBadSequence"), message ? shown(message) : "changed",
                     (long long) integer_of(v, "checked"));
}

static bool show_signed(const Json *v, long long head)
{
        long long to = (long long) integer_of(v, "signedSequence");

        if (to == 0)
                return print("none of them is signed\n");
        if (!print("signed up to row %lld (%lld checkpoints)\n", to,
                   (long long) integer_of(v, "checkpoints")))
                return false;
        return to >= head || print("not signed yet: %lld rows behind it\n", head - to);
}

static bool show_good(const Json *v)
{
        long long head = (long long) integer_of(v, "headSequence"), n = (long long) integer_of(v, "checked"),
                  erased = (long long) integer_of(v, "erased"),
                  first = (long long) integer_of(v, "firstSequence");
        const char *hash = text_of(v, "headHash"), *key = text_of(v, "publicKey");

        if (!print("%lld rows hold\n", n))
                return false;
        if (first > 1 && !print("held from row %lld on, older ones were retired\n", first))
                return false;
        if (erased > 0 && !print("private values of %lld rows are erased\n", erased))
                return false;
        if (!show_signed(v, head) || (key && !print("key %s\n", shown(key))))
                return false;
        return !hash || print("head %lld:%s\n", head, shown(hash));
}

int verify_verb(Common *common, int argc, char *argv[])
{
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        _cleanup_json_ Json *p = NULL;
        int c, status = 0;
        bool is_valid;

        if (json_new_object(&p) < 0)
                return fail("out of memory");
        while (status == 0 && (c = next_option(common, argc, argv, "", verify_options)) >= 0)
                status = apply(p, c, optarg);
        if (status == 0 && optind < argc)
                status = fail("%s: audit verify takes options only", argv[optind]);
        if (status == 0)
                status = ctl_call(common, AUDIT "Verify", TAKE_PTR(p), &reply);
        if (status != 0)
                return status;
        is_valid = is_set(reply.parameters, "valid");
        if (!(common->has_json ? print_json(STDOUT_FILENO, reply.parameters)
              : is_valid       ? show_good(reply.parameters)
                               : show_bad(reply.parameters)))
                return EXIT_OURS;
        return is_valid ? 0 : EXIT_BAD;
}
