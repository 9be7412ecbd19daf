/* Host names in the one form that rules, rows and resolvers see. */

#include <errno.h>
#include <string.h>

#include "daemon/policy/compiled.h"

#define HOST_NAME_MAX_BYTES  253U
#define HOST_LABEL_MAX_BYTES 63U

static int byte_canonical(char c, char *ret)
{
        if (c >= 'A' && c <= 'Z')
                c = (char) (c - 'A' + 'a');
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.'))
                return -EINVAL;
        *ret = c;
        return 0;
}

static int check_labels(const char *s)
{
        for (;;) {
                size_t n = strcspn(s, ".");

                if (n == 0 || n > HOST_LABEL_MAX_BYTES || s[0] == '-' || s[n - 1] == '-')
                        return -EINVAL;
                if (s[n] == '\0')
                        return 0;
                s += n + 1;
        }
}

/* As WHATWG has it: the last label is all digits, or 0x and hex digits. */
static bool ends_in_number(const char *s)
{
        const char *last = strrchr(s, '.');

        last = last ? last + 1 : s;
        if (last[strspn(last, "0123456789")] == '\0')
                return true;
        return last[0] == '0' && last[1] == 'x' && last[2 + strspn(last + 2, "0123456789abcdef")] == '\0';
}

int policy_host_canonical(const char *s, size_t size, char ret[PRIV_HOST_SIZE])
{
        char host[PRIV_HOST_SIZE] = "";
        PrivAddress address;
        int r;

        if (size > 0 && size <= ADDRESS_TEXT_SIZE && memchr(s, ':', size)) {
                memcpy(host, s, size);
                return strlen(host) == size && address_parse(host, &address) == 0 ? -EADDRNOTAVAIL : -EINVAL;
        }
        if (size > 0 && s[size - 1] == '.')
                size--;
        if (size == 0 || size > HOST_NAME_MAX_BYTES)
                return -EINVAL;
        for (size_t i = 0; i < size; i++) {
                r = byte_canonical(s[i], &host[i]);
                if (r < 0)
                        return r;
        }
        r = check_labels(host);
        if (r < 0)
                return r;
        if (address_parse(host, &address) == 0)
                return -EADDRNOTAVAIL;
        if (ends_in_number(host))
                return -EBADMSG;
        memcpy(ret, host, sizeof(host));
        return 0;
}
