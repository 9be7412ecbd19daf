/*
 * Which file system a session has by choice of one word: its root, its home, its workspace. The words stand
 * from the narrowest to the widest, so that the narrower of two is the smaller number.
 */

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "daemon/policy/model.h"
#include "proto/base/str.h"

#define MODE_WORDS_MAX 4U

static const struct {
        const char *key;
        uint32_t has;
        unsigned absent;                   /* what holds where no text says anything */
        const char *words[MODE_WORDS_MAX]; /* NULL-terminated */
        const char *unenforced;            /* part of the format; NULL: none */
} modes[] = {
        [MODE_ROOT] = { "root", HAS_ROOT, ROOT_MINIMAL, { "minimal", "host" }, NULL },
        [MODE_HOME] = { "home", HAS_HOME, HOME_EMPTY, { "empty", "persistent", "masked" }, NULL },
        [MODE_WORKSPACE] = { "workspace",
                             HAS_WORKSPACE,
                             WORKSPACE_DIRECT,
                             { "read-only", "direct" },
                             "overlay" },
};
ASSERT_TABLE(modes, _POLICY_MODE_MAX);

unsigned policy_mode(const Policy *p, PolicyMode mode)
{
        return p->has & modes[mode].has ? p->modes[mode] : modes[mode].absent;
}

const char *policy_mode_word(const Policy *p, PolicyMode mode)
{
        return modes[mode].words[policy_mode(p, mode)];
}

int policy_choose(Policy *p, PolicyMode mode, const char *word)
{
        for (unsigned i = 0; i < MODE_WORDS_MAX && modes[mode].words[i]; i++) {
                if (!str_equal(modes[mode].words[i], word))
                        continue;
                if (p->ceiling && (p->ceiling->has & modes[mode].has) && i > p->ceiling->modes[mode])
                        return -EPERM;
                p->modes[mode] = (uint8_t) i;
                p->has |= modes[mode].has;
                return 0;
        }
        return -EINVAL;
}

static int fail_word(SchemaReader *x, const TextNode *n, PolicyMode mode)
{
        const char *const *words = modes[mode].words;
        bool is_known = modes[mode].unenforced && str_equal(n->string, modes[mode].unenforced);
        char known[64] = "";

        for (unsigned i = 0; i < MODE_WORDS_MAX && words[i]; i++) {
                size_t used = strlen(known);

                if (str_printf(known + used, sizeof(known) - used, "%s\"%s\"", used ? ", " : "", words[i]) <
                    0)
                        break;
        }
        return is_known ? schema_fail(x, n, "\"%s\" is not enforced by this version; known: %s", n->string,
                                      known)
                        : schema_fail(x, n, "expected one of %s", known);
}

int mode_read(SchemaReader *x, const TextNode *n, PolicyMode mode)
{
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        return policy_choose(x->policy, mode, n->string) < 0 ? fail_word(x, n, mode) : 0;
}

void mode_merge(Policy *to, const Policy *from, bool replaces, bool is_join)
{
        for (unsigned m = 0; m < _POLICY_MODE_MAX; m++) {
                bool has_own = (to->has & modes[m].has) || is_join;

                if (!(from->has & modes[m].has))
                        continue;
                if (replaces || !has_own || from->modes[m] < policy_mode(to, (PolicyMode) m))
                        to->modes[m] = from->modes[m];
                else
                        to->modes[m] = (uint8_t) policy_mode(to, (PolicyMode) m);
                to->has |= modes[m].has;
        }
}

/* A ceiling without a word leaves all of them. */
static const char *word_to_show(const Policy *p, PolicyMode mode)
{
        unsigned last = 0;

        if (p->kind != POLICY_CEILING || (p->has & modes[mode].has))
                return policy_mode_word(p, mode);
        while (last + 1 < MODE_WORDS_MAX && modes[mode].words[last + 1])
                last++;
        return modes[mode].words[last];
}

int mode_format(const Policy *p, Buf *b)
{
        int r = 0;

        for (unsigned m = 0; r >= 0 && m < _POLICY_MODE_MAX; m++)
                r = buf_printf(b, "%s\"%s\": \"%s\"", m ? ", " : "", modes[m].key,
                               word_to_show(p, (PolicyMode) m));
        return r;
}

int policy_home_key(const char *profile, const char *workspace, uint8_t ret[POLICY_HOME_KEY_SIZE])
{
        char text[PRIV_NAME_SIZE + PLAN_PATH_MAX];
        size_t n = strlen(profile) + 1, m = strlen(workspace) + 1;
        unsigned size;

        if (n + m > sizeof(text))
                return -ENAMETOOLONG;
        memcpy(text, profile, n);
        memcpy(text + n, workspace, m);
        return EVP_Digest(text, n + m, ret, &size, EVP_sha256(), NULL) == 1 && size == POLICY_HOME_KEY_SIZE
                               ? 0
                               : -EIO;
}
