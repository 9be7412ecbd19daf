/* Placeholder: every decision is deny until the matcher lands. */

#include <errno.h>
#include <stdio.h>

#include "daemon/policy/compiled.h"

int policy_block_open(int fd, const PolicyBlock **ret)
{
        (void) fd;
        (void) ret;
        return -ENOSYS;
}

const PolicyBlock *policy_block_close(const PolicyBlock *b)
{
        (void) b;
        return NULL;
}

const uint8_t *policy_block_digest(const PolicyBlock *b)
{
        (void) b;
        return (const uint8_t *) "                                ";
}

const char *policy_block_text(const PolicyBlock *b)
{
        (void) b;
        return "";
}

const char *policy_block_name(const PolicyBlock *b)
{
        (void) b;
        return "";
}

uint64_t policy_block_generation(const PolicyBlock *b)
{
        (void) b;
        return 0;
}

void policy_match_request(const PolicyBlock *b, const PolicyRequest *q, PolicyMatch *ret)
{
        (void) b;
        (void) q;
        *ret = (PolicyMatch) { .reason = REASON_DEFAULT, .layer = "", .rule = "", .rule_text = "",
                               .rule_reason = "" };
}

bool policy_match_address(const PolicyBlock *b, const PolicyRequest *q, const PrivAddress *address, bool is_local)
{
        (void) b;
        (void) q;
        (void) address;
        (void) is_local;
        return false;
}
