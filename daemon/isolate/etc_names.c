#include "daemon/isolate/etc_names.h"

#include <string.h>

#include "proto/base/macro.h"
#include "proto/base/str.h"

/* Nothing here may be read by root alone: such files are skipped anyway. */
/* clang-format off */
const char *const etc_copied[] = {
        "alternatives", "ssl/certs", "ssl/openssl.cnf", "ca-certificates", "ca-certificates.conf",
        "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "timezone", "mime.types", "magic",
        "magic.mime", "protocols", "services", "networks", "rpc", "host.conf", "gai.conf", "perl",
        "fonts", "terminfo", "inputrc", "bash.bashrc", "bash_completion.d", "profile", "profile.d",
        "gitconfig", "npmrc", "pip.conf", "wgetrc", "manpath.config", "locale.alias", "locale.gen",
        "locale.conf", "default/locale", "debian_version", "os-release", "lsb-release", "issue",
        "shells", "xattr.conf", "xml", "sgml", "maven", "gradle", "vim", "nanorc", "groff", "gdb",
        "dpkg", "glvnd", "gss/mech.d", "chromium", "chromium.d",
        "environment.d", "less", "zsh", "fish", "mailcap", "papersize", "matplotlibrc", "OpenCL",
        "ImageMagick-6", "ld-musl-x86_64.path", "ld-musl-x86_64.d", "pkcs11", "crypto-policies",
        "ssh/ssh_config", "ssh/ssh_config.d", "selinux/config", NULL,
};

static const char *const prefixes[] = {
        "java-", "python2", "python3", "nodejs", "php", "ruby", "lua", "R", "ghc", "mono", "openmpi",
        "fpc",
};
/* clang-format on */

const char *const etc_links[][2] = {
        { "passwd", "../run/sandbox/passwd" },     { "group", "../run/sandbox/group" },
        { "hostname", "../run/sandbox/hostname" }, { "hosts", "../run/sandbox/hosts" },
        { "mtab", "../proc/self/mounts" },         { NULL, NULL },
};

bool etc_has_copied_prefix(const char *name)
{
        for (size_t i = 0; i < ELEMENTSOF(prefixes); i++) {
                if (str_has_prefix(name, prefixes[i]))
                        return true;
        }
        return false;
}

static bool is_or_below(const char *path, const char *top)
{
        size_t n = strlen(top);

        return strncmp(path, top, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

bool etc_shows(const char *path)
{
        static const char *const own[] = { "nsswitch.conf", "resolv.conf" };

        if (etc_has_copied_prefix(path))
                return true;
        for (size_t i = 0; etc_copied[i]; i++) {
                if (is_or_below(path, etc_copied[i]) || is_or_below(etc_copied[i], path))
                        return true;
        }
        for (size_t i = 0; etc_links[i][0]; i++) {
                if (str_equal(path, etc_links[i][0]))
                        return true;
        }
        for (size_t i = 0; i < ELEMENTSOF(own); i++) {
                if (str_equal(path, own[i]))
                        return true;
        }
        return false;
}
