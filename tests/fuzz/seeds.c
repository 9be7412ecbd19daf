/* Writes the seeds that are structs, from texts: fuzz_seeds CORPUS. */

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/policy/policy.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/seal.h"

static const struct {
        const char *name;
        const char *text;
} seeds[] = {
        { "empty", "{ \"version\": 1 }" },
        { "hosts",
          "{ \"version\": 1, \"network\": { \"default\": \"ask\", \"rules\": ["
          " { \"action\": \"allow\", \"host\": \"*.a.test\", \"ports\": [443, \"1-2\"], \"reason\": \"r\" },"
          " { \"action\": \"deny\", \"host\": \"b.a.test\" },"
          " { \"action\": \"allow\", \"host\": \"c.test\", \"cidr\": \"10.0.0.0/8\" } ] } }" },
        { "networks", "{ \"version\": 1, \"network\": { \"default\": \"allow\", \"rules\": ["
                      " { \"action\": \"deny\", \"cidr\": \"2001:db8::/32\", \"protocol\": \"http\","
                      " \"expires\": \"2030-01-01T00:00:00Z\" },"
                      " { \"action\": \"ask\", \"cidr\": \"10.1.0.0/16\" } ] } }" },
        { "terms",
          "{ \"version\": 1, \"network\": { \"default\": \"deny\", \"rules\": ["
          " { \"action\": \"allow\", \"host\": \"a.test\", \"protocol\": \"http\", \"methods\": [\"GET\", \"PUT\"],"
          " \"paths\": [\"/v1/**\", \"/*/a\", \"/**/b\"], \"max_upload\": \"1K\", \"max_connections\": 2 },"
          " { \"action\": \"allow\", \"host\": \"*.a.test\", \"tls\": \"any\", \"max_download\": \"9\", \"idle\": \"5s\","
          " \"expires\": \"2030-01-01T00:00:00Z\" },"
          " { \"action\": \"deny\", \"cidr\": \"10.0.0.0/8\", \"protocol\": \"http\", \"paths\": [\"/**.php\"] } ] } }" },
        { "files",
          "{ \"version\": 1, \"filesystem\": { \"read\": [\"/opt/b\"], \"write\": [\"~/.cache/pip\"],"
          " \"deny\": [\"${workspace}/.env\"], \"tmpfs\": { \"/tmp\": \"1G\" } } }" },
};

static void write_file(const char *corpus, const char *target, const char *name, int from_fd,
                       size_t size_max)
{
        const void *data;
        char path[PLAN_PATH_MAX];
        size_t size;
        int fd;

        sb_assert(fd_map_sealed(from_fd, size_max, &data, &size) == 0);
        sb_assert(str_printf(path, sizeof(path), "%s/%s/%s", corpus, target, name) >= 0);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        sb_assert(fd >= 0 && fd_write_all(fd, data, size) == 0);
        fd = fd_close(fd);
        (void) munmap((void *) (uintptr_t) data, size);
}

int main(int argc, char **argv)
{
        for (size_t i = 0; argc == 2 && i < ELEMENTSOF(seeds); i++) {
                _cleanup_close_ int block_fd = -EBADF, plan_fd = -EBADF;
                _cleanup_(policy_freep) Policy *p = NULL;
                PolicyDiagnostics d;

                policy_diagnostics_init(&d);
                sb_assert(policy_parse(POLICY_PROFILE, "seed", seeds[i].text, strlen(seeds[i].text), &d,
                                       &p) == 0);
                sb_assert(policy_compile(p, i % 2 ? p : NULL, NULL, i, &block_fd) == 0);
                write_file(argv[1], "block", seeds[i].name, block_fd, POLICY_BLOCK_MAX);
                sb_assert(seal_plan(p, &plan_fd) == 0);
                write_file(argv[1], "plan", seeds[i].name, plan_fd, PLAN_SIZE_MAX);
                policy_diagnostics_done(&d);
        }
        return argc == 2 ? 0 : 2;
}
