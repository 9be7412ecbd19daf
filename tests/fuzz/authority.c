/* What is accepted as a destination is written in one form, which is accepted as the same destination. */

#include "daemon/egress/authority.h"

#include <errno.h>

#include "daemon/policy/compiled.h"
#include "tests/fuzz/fuzz.h"

static void check_default(const char *text, size_t size, uint16_t default_port)
{
        char written[AUTHORITY_TEXT_SIZE], host[PRIV_HOST_SIZE];
        Authority a, again;
        int r = authority_parse(text, size, default_port, &a);

        sb_assert(r == 0 || r == -EINVAL);
        if (r < 0)
                return;
        sb_assert(a.port != 0 && (a.host[0] == '\0') == (a.address.family != 0));
        authority_format(&a, default_port, written);
        sb_assert(authority_parse(written, strlen(written), default_port, &again) == 0);
        sb_assert(authority_equal(&a, &again));
        authority_format_host(&a, host);
        fuzz_read_string(host);
        /* Nothing but a name or an address is ever a host, whoever reads it again. */
        sb_assert(strcspn(host, "/@?#\\%[] \t\r\n") == strlen(host));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_free_ char *text = fuzz_copy(data, size);

        check_default(text, size, 0);
        check_default(text, size, 80);
        check_default(text, size, 443);
        return 0;
}
