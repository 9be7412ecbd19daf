/* A user by name or number. Names of /etc/passwd only: a static program can ask no other source. */

#include <pwd.h>
#include <stdio.h>

#include "client/ctl/ctl.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

int user_from_text(const char *text, uint32_t *ret_uid)
{
        const struct passwd *entry;
        bool is_found = false;
        FILE *f;

        if (parse_u32(text, ret_uid) >= 0)
                return 0;
        f = fopen("/etc/passwd", "re");
        while (f && !is_found && (entry = fgetpwent(f))) {
                is_found = str_equal(entry->pw_name, text);
                if (is_found)
                        *ret_uid = entry->pw_uid;
        }
        if (f)
                (void) fclose(f);
        return is_found ? 0 : fail("%s: no such user in /etc/passwd; give the number of the user", text);
}
