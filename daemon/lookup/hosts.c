/* The machine's resolver files. They are trusted, but read as if they were not: what is odd is left out. */

#include <errno.h>
#include <string.h>

#include "daemon/lookup/lookup.h"
#include "daemon/policy/compiled.h"

#define WORD_SIZE 512U
#define DNS_PORT  53U

typedef struct Words {
        const char *at;
        const char *end; /* of the line */
} Words;

/* False at the end of the line, at a comment and at a word that is too long. */
static bool next_word(Words *w, char word[WORD_SIZE])
{
        size_t n = 0;

        while (w->at < w->end && (*w->at == ' ' || *w->at == '\t' || *w->at == '\r'))
                w->at++;
        while (w->at < w->end && *w->at != ' ' && *w->at != '\t' && *w->at != '\r' && *w->at != '#' &&
               *w->at != ';') {
                if (n + 1 >= WORD_SIZE || *w->at == '\0')
                        return false;
                word[n++] = *w->at++;
        }
        word[n] = '\0';
        return n > 0;
}

static bool next_line(const char **at, const char *end, Words *ret)
{
        const char *newline;

        if (*at >= end)
                return false;
        newline = memchr(*at, '\n', (size_t) (end - *at));
        *ret = (Words){ .at = *at, .end = newline ? newline : end };
        *at = newline ? newline + 1 : end;
        return true;
}

void lookup_servers(const char *text, size_t size, PrivResolver *ret)
{
        const char *at = text, *end = text + size;
        PrivResolver to = { 0 };
        char word[WORD_SIZE];
        Words w;

        while (next_line(&at, end, &w) && to.n_servers < PRIV_RESOLVERS_MAX) {
                PrivServer server = { .port = DNS_PORT };

                if (!next_word(&w, word) || strcmp(word, "nameserver") != 0 || !next_word(&w, word))
                        continue;
                if (address_parse(word, &server.address) >= 0)
                        to.servers[to.n_servers++] = server;
        }
        *ret = to;
}

int lookup_hosts(const char *text, size_t size, Buf *b)
{
        const char *at = text, *end = text + size;
        char word[WORD_SIZE], host[PRIV_HOST_SIZE], number[ADDRESS_TEXT_SIZE];
        PrivAddress address;
        Words w;
        int r;

        while (next_line(&at, end, &w)) {
                if (!next_word(&w, word) || address_parse(word, &address) < 0)
                        continue;
                address = address_unmap(&address);
                address_format(&address, number);
                while (next_word(&w, word)) {
                        if (policy_host_canonical(word, strlen(word), host) < 0)
                                continue;
                        r = buf_printf(b, "%s %s\n", number, host);
                        if (r < 0)
                                return r;
                }
        }
        return buf_size(b) > 0 ? 0 : buf_put(b, "\n", 1);
}
