#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/isolate/probe.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

/*
 * The kernel says by number which of its functions a program is attached to; the numbers are in its type
 * information (BTF): a header, types one after the other, names. Only what is needed to walk over the types
 * is known here.
 */

#define BTF_PATH     "/sys/kernel/btf/vmlinux"
#define BTF_SIZE_MAX (64U * 1024U * 1024U)
#define BTF_MAGIC    0xeb9fU
#define BTF_FUNCTION 12U

#define LSM_HOOK   "bpf_lsm_file_ioctl"
#define FEXIT_HOOK "do_settimeofday64"

/* No device has it. */
#define IOCTL_OF_OURS 0x53424f58

typedef struct BtfHeader {
        uint16_t magic;
        uint8_t version;
        uint8_t flags;
        uint32_t header_size;
        uint32_t types_offset;
        uint32_t types_size;
        uint32_t names_offset;
        uint32_t names_size;
} BtfHeader;

typedef struct BtfType {
        uint32_t name;
        uint32_t info;
        uint32_t size_or_type;
} BtfType;

static long call_bpf(int command, union bpf_attr *attr)
{
        return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

/* What follows a type's header, by kind; -1: a kind of a later version. */
static int tail_size(uint32_t info)
{
        static const int8_t fixed[] = { 0, 4, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 4, 0, 0 };
        static const int8_t each[] = { 0, 0, 0, 0, 12, 12, 8, 0, 0, 0, 0, 0, 0, 8, 0, 12, 0, 0, 0, 12 };
        uint32_t kind = info >> 24 & 0x1f;

        return kind < sizeof(fixed) ? fixed[kind] + each[kind] * (int) (info & 0xffff) : -1;
}

static int find_in(const char *data, size_t size, const char *name, uint32_t *ret_id)
{
        BtfHeader h;
        size_t at, end, names;
        uint32_t id = 0;

        if (size < sizeof(h))
                return -EBADMSG;
        memcpy(&h, data, sizeof(h));
        if (h.magic != BTF_MAGIC || h.header_size > size || h.types_offset > size - h.header_size ||
            h.types_size > size - h.header_size - h.types_offset || h.names_offset > size - h.header_size ||
            h.names_size > size - h.header_size - h.names_offset)
                return -EBADMSG;
        at = h.header_size + h.types_offset;
        end = at + h.types_size;
        names = h.header_size + h.names_offset;
        while (end - at >= sizeof(BtfType)) {
                BtfType t;
                int tail;

                memcpy(&t, data + at, sizeof(t));
                tail = tail_size(t.info);
                id++;
                if (tail < 0 || (size_t) tail > end - at - sizeof(t))
                        return -EBADMSG;
                if ((t.info >> 24 & 0x1f) == BTF_FUNCTION && t.name < h.names_size &&
                    strncmp(data + names + t.name, name, h.names_size - t.name) == 0) {
                        *ret_id = id;
                        return 0;
                }
                at += sizeof(t) + (size_t) tail;
        }
        return -ENOENT;
}

static int find_function(const char *name, uint32_t *ret_id)
{
        _cleanup_free_ char *data = NULL;
        _cleanup_close_ int fd = open(BTF_PATH, O_RDONLY | O_CLOEXEC);
        size_t n = 0;
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return neg_errno();
        if (st.st_size <= 0 || st.st_size > (off_t) BTF_SIZE_MAX)
                return -EFBIG;
        data = malloc((size_t) st.st_size + 1);
        if (!data)
                return -ENOMEM;
        while (n < (size_t) st.st_size) {
                ssize_t k = read(fd, data + n, (size_t) st.st_size - n);

                if (k <= 0)
                        return k < 0 ? neg_errno() : -EBADMSG;
                n += (size_t) k;
        }
        /* So that every name ends. */
        data[n] = '\0';
        return find_in(data, n, name, ret_id);
}

static int load(const struct bpf_insn *code, size_t n, uint32_t type, uint32_t attach_type,
                uint32_t function)
{
        union bpf_attr attr;
        long fd;

        memset(&attr, 0, sizeof(attr));
        attr.prog_type = type;
        attr.expected_attach_type = attach_type;
        attr.insn_cnt = (uint32_t) n;
        attr.insns = (uint64_t) (uintptr_t) code;
        attr.license = (uint64_t) (uintptr_t) "GPL";
        attr.attach_btf_id = function;
        fd = call_bpf(BPF_PROG_LOAD, &attr);
        return fd < 0 ? neg_errno() : (int) fd;
}

/* The attachment ends with the descriptor. */
static int attach(int program_fd)
{
        union bpf_attr attr;
        long fd;

        memset(&attr, 0, sizeof(attr));
        attr.raw_tracepoint.prog_fd = (uint32_t) program_fd;
        fd = call_bpf(BPF_RAW_TRACEPOINT_OPEN, &attr);
        return fd < 0 ? neg_errno() : (int) fd;
}

#define MOVE(r, v)                                                                    \
        {                                                                             \
                .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = (r), .imm = (int) (v) \
        }
#define LOAD(to, from, o)                                                               \
        {                                                                               \
                .code = BPF_LDX | BPF_MEM | BPF_DW, .dst_reg = (to), .src_reg = (from), \
                .off = (int16_t) (o)                                                    \
        }
#define SKIP_UNLESS(r, v, n)                                                                      \
        {                                                                                         \
                .code = BPF_JMP32 | BPF_JNE | BPF_K, .dst_reg = (r), .off = (n), .imm = (int) (v) \
        }
#define RETURN                             \
        {                                  \
                .code = BPF_JMP | BPF_EXIT \
        }

int probe_bpf_lsm(void)
{
        /* The second argument is the number of the ioctl. */
        static const struct bpf_insn code[] = { LOAD(2, 1, 8),   SKIP_UNLESS(2, IOCTL_OF_OURS, 2),
                                                MOVE(0, -EPERM), RETURN,
                                                MOVE(0, 0),      RETURN };
        _cleanup_close_ int program = -EBADF, link = -EBADF, fd = -EBADF;
        uint32_t function = 0;
        int r;

        r = find_function(LSM_HOOK, &function);
        if (r < 0)
                return r;
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (fd < 0)
                return neg_errno();
        program = load(code, ELEMENTSOF(code), BPF_PROG_TYPE_LSM, BPF_LSM_MAC, function);
        if (program < 0)
                return program;
        link = attach(program);
        if (link < 0)
                return link;
        r = ioctl(fd, IOCTL_OF_OURS, NULL);
        return r < 0 && errno == EPERM ? 0 : -EOPNOTSUPP;
}

int probe_fexit(void)
{
        static const struct bpf_insn code[] = { MOVE(0, 0), RETURN };
        _cleanup_close_ int program = -EBADF, link = -EBADF;
        uint32_t function = 0;
        int r;

        r = find_function(FEXIT_HOOK, &function);
        if (r < 0)
                return r;
        program = load(code, ELEMENTSOF(code), BPF_PROG_TYPE_TRACING, BPF_TRACE_FEXIT, function);
        if (program < 0)
                return program;
        link = attach(program);
        return link < 0 ? link : 0;
}
