#include "proto/base/id.h"

#include <errno.h>
#include <sys/random.h>

#include "proto/base/error.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

int id_random(Id *ret)
{
        Id id;
        ssize_t n = getrandom(id.bytes, sizeof(id.bytes), 0);

        if (n < 0)
                return neg_errno();
        if ((size_t) n != sizeof(id.bytes))
                return -EIO;
        *ret = id;
        return 0;
}

void id_format(const Id *id, char text[ID_TEXT_SIZE])
{
        str_hex(text, id->bytes, sizeof(id->bytes));
}

int id_parse(const char *s, Id *ret)
{
        return parse_hex(s, ret->bytes, sizeof(ret->bytes));
}
