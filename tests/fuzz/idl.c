/* Parameters of a call as every method sees them. */

#include "proto/idl/idl.h"

#include <errno.h>

#include "proto/wire/conn.h"
#include "tests/fuzz/fuzz.h"

static void check_result(int r, const char *field)
{
        sb_assert(r == 0 || r == -EINVAL);
        sb_assert(r == 0 || memchr(field, '\0', IDL_FIELD_SIZE));
}

static void check_method(const IdlMember *method, const Json *parameters, size_t n_fds)
{
        char field[IDL_FIELD_SIZE];
        int r = idl_check_parameters(method, parameters, field);

        check_result(r, field);
        if (r == 0)
                check_result(idl_check_fds(method, parameters, n_fds, field), field);
        check_result(idl_check_reply(method, parameters, field), field);
}

static void check_interface(const IdlInterface *i, const Json *parameters)
{
        for (size_t k = 0; k < i->n_members; k++)
                if (i->members[k].kind == IDL_METHOD)
                        check_method(&i->members[k], parameters, k % (CONN_FDS_MAX + 1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static IdlSet *set;
        _cleanup_free_ char *text = fuzz_copy(data, size);
        _cleanup_json_ Json *parameters = NULL;

        if (!set)
                sb_assert(idl_set_new(&set) == 0);
        if (json_parse(text, size, CONN_MESSAGE_MAX, &parameters) < 0)
                return 0;
        for (size_t i = 0; idl_set_at(set, i); i++)
                check_interface(idl_set_at(set, i), parameters);
        return 0;
}
