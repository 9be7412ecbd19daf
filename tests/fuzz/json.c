/*
 * The gate and the tree behind it against jansson. Whatever we accept it must accept, and what we write of
 * it must mean the same to it. The other way round: an object that it accepts is sound for us too, if
 * perhaps too much; numbers beyond int64 and double it refuses, we call them too much, so there is no
 * difference that way. One text of ours it reads wrongly: it skips a NUL byte behind a number.
 */

#include "proto/wire/json.h"

#include <errno.h>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/json_oracle.h"

#define OUTPUT_MAX (16U * 1024U * 1024U)

static void check_written(const Json *j, const Oracle *original)
{
        _cleanup_(oracle_freep) Oracle *written = NULL;
        _cleanup_json_ Json *again = NULL;
        Buf b = BUF_INIT(OUTPUT_MAX);

        sb_assert(json_format(j, &b) == 0);
        sb_assert(!memchr(buf_front(&b), '\n', buf_size(&b)) && !memchr(buf_front(&b), '\0', buf_size(&b)));
        written = oracle_load(buf_front(&b), buf_size(&b));
        sb_assert(written && oracle_equal(original, written));
        sb_assert(json_parse(buf_front(&b), buf_size(&b), OUTPUT_MAX, &again) == 0);
        buf_done(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_free_ char *text = fuzz_copy(data, size);
        _cleanup_(oracle_freep) Oracle *o = oracle_load(text, size);
        _cleanup_json_ Json *j = NULL;
        JsonGate gate;
        JsonVerdict v = json_gate_examine(text, size, JSON_STRING_MAX, &gate);
        int r = json_parse(text, size, JSON_STRING_MAX, &j);

        fuzz_read_string(gate.place);
        sb_assert(memchr(gate.place, '\0', sizeof(gate.place)));
        sb_assert((v == JSON_TOO_MUCH) == (gate.place[0] != '\0') || v != JSON_OK);
        sb_assert((v == JSON_TOO_MUCH) == (r == -E2BIG) && (v != JSON_UNSOUND || r == -EBADMSG));
        if (o && oracle_is_object(o) && !memchr(text, '\0', size))
                sb_assert(r == 0 || r == -E2BIG);
        if (r < 0)
                return 0;
        sb_assert(o && oracle_is_object(o));
        check_written(j, o);
        return 0;
}
