/* Answers of name servers: whatever they say, what is passed on is whole records that fit. */

#include <errno.h>

#include "daemon/dialer/records.h"
#include "daemon/policy/compiled.h"
#include "tests/fuzz/fuzz.h"

#define ROOM 1024U

static void check_records(Buf *b)
{
        const uint8_t *at = (const uint8_t *) buf_front(b);
        size_t left = buf_size(b), n_records = 0;

        while (left > 0) {
                size_t n;

                sb_assert(left > 2);
                n = (size_t) at[0] << 8 | at[1];
                sb_assert(n > 0 && n <= left - 2);
                at += 2 + n;
                left -= 2 + n;
                n_records++;
        }
        sb_assert(n_records <= RECORDS_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        uint32_t type = UINT32_C(1) << (fuzz_take_byte(&data, &size) % 4);
        _cleanup_free_ uint8_t *copy = fuzz_copy(data, size);
        Buf b = BUF_INIT(ROOM);
        int r = records_put(&b, type, copy, size);

        sb_assert(r == 0 || r == -EBADMSG);
        sb_assert(buf_size(&b) <= ROOM);
        sb_assert(r == 0 || buf_size(&b) == 0);
        check_records(&b);
        buf_done(&b);
        return 0;
}
