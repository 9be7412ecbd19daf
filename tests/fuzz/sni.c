/* A TLS client's first bytes: what is said of a beginning is said of each longer one too. */

#include "daemon/egress/sni.h"

#include <errno.h>

#include "tests/fuzz/fuzz.h"

#define STEPS 16U

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        char name[SNI_NAME_SIZE] = "", first_name[SNI_NAME_SIZE] = "";
        size_t name_size = 0, first_size = 0;
        int last = 0;

        for (size_t i = 1; i <= STEPS; i++) {
                size_t n = size * i / STEPS;
                _cleanup_free_ char *text = fuzz_copy(data, n);
                int r = sni_find(text, n, name, &name_size);

                sb_assert(r == 1 || r == 0 || r == -EBADMSG);
                sb_assert(last == 0 || r == last);
                sb_assert(r != 0 || n <= SNI_HELLO_MAX);
                if (r == 1) {
                        sb_assert(name_size < SNI_NAME_SIZE);
                        sb_assert(last == 0 ||
                                  (name_size == first_size && !memcmp(name, first_name, name_size)));
                        first_size = name_size;
                        memcpy(first_name, name, name_size);
                }
                last = r;
        }
        return 0;
}
