/* A SOCKS client's bytes: what is said of a beginning is said of each longer one, and a host is a host. */

#include "daemon/egress/socks.h"

#include <errno.h>

#include "tests/fuzz/fuzz.h"

static void check_request(const SocksRequest *q, const char *text, size_t n, int r)
{
        char host[PRIV_HOST_SIZE];

        sb_assert(r == -EBADMSG || r == -EAFNOSUPPORT || (r >= 0 && (size_t) r <= n));
        sb_assert(q->n_raw == 0 || (q->raw >= text && q->raw + q->n_raw <= text + n));
        if (r <= 0)
                return;
        sb_assert(q->authority.port != 0 &&
                  (q->authority.host[0] == '\0') == (q->authority.address.family != 0));
        authority_format_host(&q->authority, host);
        sb_assert(strcspn(host, "/@?#\\%[] \t\r\n") == strlen(host));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        int last = 0;

        for (size_t n = 0; n <= size && n <= 1024; n++) {
                _cleanup_free_ char *text = fuzz_copy(data, n);
                SocksRequest q;
                int r = socks_parse_request(text, n, &q);

                check_request(&q, text, n, r);
                sb_assert(last == 0 || r == last);
                last = r;
                r = socks_parse_greeting(text, n);
                sb_assert(r == -EOPNOTSUPP || (r >= 0 && (size_t) r <= n));
        }
        return 0;
}
