#include "tests/fuzz/messages.h"

#include "proto/wire/conn.h"
#include "tests/fuzz/fuzz.h"

void messages_check(Buf *output)
{
        messages_check_prefix(output);
        sb_assert(buf_size(output) == 0);
}

void messages_check_prefix(Buf *output)
{
        while (buf_size(output) > 0) {
                const char *front = buf_front(output), *end = memchr(front, '\0', buf_size(output));
                size_t n_members;

                if (!end)
                        return;
                sb_assert(json_gate(front, (size_t) (end - front), CONN_OUTPUT_MAX, &n_members) == JSON_OK);
                buf_consume(output, (size_t) (end - front) + 1);
        }
}
