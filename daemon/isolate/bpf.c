#include "daemon/isolate/bpf.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>

#include "proto/base/fd.h"

#if defined(__x86_64__)
#define NATIVE_ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE_ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "no audit number known for this architecture"
#endif

size_t bpf_put(BpfProgram *p, uint16_t code, uint8_t if_true, uint8_t if_false, uint32_t k)
{
        if (p->n >= BPF_PROGRAM_MAX) {
                p->is_full = true;
                return 0;
        }
        p->code[p->n] = (struct sock_filter){ .code = code, .jt = if_true, .jf = if_false, .k = k };
        return p->n++;
}

static void load(BpfProgram *p, size_t offset)
{
        (void) bpf_put(p, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t) offset);
}

void bpf_load_low(BpfProgram *p, unsigned i)
{
        load(p, offsetof(struct seccomp_data, args) + i * sizeof(uint64_t));
}

void bpf_load_high(BpfProgram *p, unsigned i)
{
        load(p, offsetof(struct seccomp_data, args) + i * sizeof(uint64_t) + sizeof(uint32_t));
}

void bpf_load_number(BpfProgram *p)
{
        load(p, offsetof(struct seccomp_data, nr));
}

void bpf_return(BpfProgram *p, uint32_t action)
{
        (void) bpf_put(p, BPF_RET | BPF_K, 0, 0, action);
}

void bpf_return_if_equal(BpfProgram *p, uint32_t k, uint32_t action)
{
        (void) bpf_put(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, k);
        bpf_return(p, action);
}

void bpf_return_if_bits(BpfProgram *p, uint32_t bits, uint32_t action)
{
        (void) bpf_put(p, BPF_JMP | BPF_JSET | BPF_K, 0, 1, bits);
        bpf_return(p, action);
}

void bpf_check_architecture(BpfProgram *p)
{
        load(p, offsetof(struct seccomp_data, arch));
        (void) bpf_put(p, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, NATIVE_ARCHITECTURE);
        bpf_return(p, SECCOMP_RET_KILL_PROCESS);
        bpf_load_number(p);
        /* x32: the same architecture with a bit set in the number. -1 (restarts) has it too, and is no call.
         */
        (void) bpf_put(p, BPF_JMP | BPF_JGE | BPF_K, 0, 1, UINT32_C(0x40000000));
        bpf_return(p, SECCOMP_RET_KILL_PROCESS);
}

int bpf_program_seal(const BpfProgram *p, const char *name, int *ret_fd)
{
        if (p->is_full)
                return -E2BIG;
        return fd_memfd_sealed(name, p->code, p->n * sizeof(p->code[0]), ret_fd);
}
