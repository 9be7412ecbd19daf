#include "daemon/policy/reserved.h"

#include <string.h>

#include "proto/base/macro.h"
#include "proto/base/str.h"

/* Each with what is below it. use-application-dns.net is what Firefox asks before it uses one by itself. */
static const char *const resolvers[] = {
        "dns.controld.com",
        "adguard-dns.com",
        "cloudflare-dns.com",
        "dns.adguard.com",
        "dns.alidns.com",
        "dns.cloudflare.com",
        "dns.digitale-gesellschaft.ch",
        "dns.google",
        "dns.google.com",
        "dns.mullvad.net",
        "dns.nextdns.io",
        "dns.njal.la",
        "dns.quad9.net",
        "dns.sb",
        "dns.switch.ch",
        "dns.twnic.tw",
        "dns0.eu",
        "dns10.quad9.net",
        "dns11.quad9.net",
        "dns9.quad9.net",
        "dnsforge.de",
        "doh.360.cn",
        "doh.applied-privacy.net",
        "doh.cleanbrowsing.org",
        "doh.dns.apple.com",
        "doh.dns.sb",
        "doh.familyshield.opendns.com",
        "doh.ffmuc.net",
        "doh.li",
        "doh.libredns.gr",
        "doh.mullvad.net",
        "doh.opendns.com",
        "doh.pub",
        "doh.umbrella.com",
        "doh.xfinity.com",
        "dot.pub",
        "freedns.controld.com",
        "mask-h2.icloud.com",
        "mask.icloud.com",
        "one.one.one.one",
        "use-application-dns.net",
        "wikimedia-dns.org",
};

bool host_is_public_resolver(const char *host)
{
        size_t n = strlen(host);

        for (size_t i = 0; i < ELEMENTSOF(resolvers); i++) {
                size_t m = strlen(resolvers[i]);

                if (str_has_suffix(host, resolvers[i]) && (n == m || host[n - m - 1] == '.'))
                        return true;
        }
        return false;
}

bool host_is_local(const char *host)
{
        static const char *const names[] = { "localhost", "local", "internal" };
        const char *last = strrchr(host, '.');

        last = last ? last + 1 : host;
        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (str_equal(last, names[i]))
                        return true;
        return false;
}
