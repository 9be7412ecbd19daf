/* Names and addresses; the libc is the oracle for the latter. */

#include <arpa/inet.h>
#include <errno.h>

#include "daemon/policy/address.h"
#include "tests/fuzz/fuzz.h"

static void check_name(const char *text, size_t size)
{
        char host[PRIV_HOST_SIZE], again[PRIV_HOST_SIZE];
        int r = policy_host_canonical(text, size, host);

        sb_assert(r == 0 || r == -EINVAL || r == -EADDRNOTAVAIL || r == -EBADMSG);
        if (r < 0)
                return;
        sb_assert(strspn(host, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == strlen(host) &&
                  strlen(host) <= 253);
        sb_assert(policy_host_canonical(host, strlen(host), again) == 0 && strcmp(host, again) == 0);
        /* No address for any reader of numbers, however lenient. */
        sb_assert(inet_addr(host) == INADDR_NONE);
}

static void check_address(const char *text)
{
        char written[ADDRESS_TEXT_SIZE];
        PrivAddress a, again;
        uint8_t bytes[16];
        int r = address_parse(text, &a), family;

        family = inet_pton(AF_INET, text, bytes) == 1 ? 4 : inet_pton(AF_INET6, text, bytes) == 1 ? 6 : 0;
        sb_assert(r == 0 || r == -EINVAL);
        sb_assert((r == 0) == (family != 0));
        if (r < 0)
                return;
        sb_assert(a.family == (uint32_t) family && memcmp(a.bytes, bytes, family == 4 ? 4 : 16) == 0);
        address_format(&a, written);
        sb_assert(address_parse(written, &again) == 0 && address_equal(&a, &again));
        a = address_unmap(&a);
        sb_assert(address_in_prefix(&a, &a, 32) && address_class(&a) <= ADDRESS_METADATA);
        sb_assert(!address_is_loopback(&a) || address_class(&a) != ADDRESS_GLOBAL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_free_ char *text = fuzz_copy(data, size);
        _cleanup_free_ char *string = strndup((const char *) data, size);

        check_name(text, size);
        check_address(string);
        return 0;
}
