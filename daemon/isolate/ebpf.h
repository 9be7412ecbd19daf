#pragma once

/* Programs for the kernel (not for seccomp, which are those of bpf.h), instruction by instruction. */

#include <linux/bpf.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/isolate/cgroup.h"
#include "daemon/isolate/spawn.h"

/* errno as with any call. */
static inline long ebpf_call(int command, union bpf_attr *attr)
{
        return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

/* A program for control groups; the caller owns *ret_fd. */
int ebpf_load(enum bpf_prog_type type, enum bpf_attach_type attach_type, const struct bpf_insn *code,
              size_t n, int *ret_fd) _must_check_;
/* Not by a link, which would end with us: sessions go on for a moment. What an earlier daemon attached there
 * is replaced. */
int ebpf_attach(int group_fd, int program_fd, enum bpf_attach_type type) _must_check_;
/* Runs the trial in a group of its own below the base: 0 if it ends with 0. */
int ebpf_try(const CgroupBase *base, SpawnTrial trial, const void *userdata) _must_check_;

#define INSTRUCTION(c, d, s, o, i)                                                            \
        {                                                                                     \
                .code = (c), .dst_reg = (d), .src_reg = (s), .off = (int16_t) (o), .imm = (i) \
        }
#define MOVE(d, s)  INSTRUCTION(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define SET(d, i)   INSTRUCTION(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define AND(d, i)   INSTRUCTION(BPF_ALU | BPF_AND | BPF_K, d, 0, 0, i)
#define OR(d, s)    INSTRUCTION(BPF_ALU | BPF_OR | BPF_X, d, s, 0, 0)
#define ADD(d, i)   INSTRUCTION(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i)
#define SHIFT(d, i) INSTRUCTION(BPF_ALU | BPF_RSH | BPF_K, d, 0, 0, i)
#define SUB(d, s)   INSTRUCTION(BPF_ALU64 | BPF_SUB | BPF_X, d, s, 0, 0)
/* From the context, which register 6 keeps. */
#define LOAD(d, o) INSTRUCTION(BPF_LDX | BPF_MEM | BPF_W, d, 6, o, 0)
/* 64 bits, from where register p points to and there. */
#define LOAD_AT(d, p, o)  INSTRUCTION(BPF_LDX | BPF_MEM | BPF_DW, d, p, o, 0)
#define STORE_AT(p, o, s) INSTRUCTION(BPF_STX | BPF_MEM | BPF_DW, p, s, o, 0)
#define CLEAR_AT(p, o)    INSTRUCTION(BPF_ST | BPF_MEM | BPF_DW, p, 0, o, 0)
/* What others add meanwhile counts, too. */
#define ADD_AT(p, o, s) INSTRUCTION(BPF_STX | BPF_ATOMIC | BPF_DW, p, s, o, BPF_ADD)
/* To the stack. */
#define STORE(o, s) INSTRUCTION(BPF_STX | BPF_MEM | BPF_W, 10, s, o, 0)
#define CALL(f)     INSTRUCTION(BPF_JMP | BPF_CALL, 0, 0, 0, f)
#define EXIT        INSTRUCTION(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
/* Two: the number of the map's descriptor is put into the first. */
#define LOAD_MAP(d) \
        INSTRUCTION(BPF_LD | BPF_DW | BPF_IMM, d, BPF_PSEUDO_MAP_FD, 0, 0), INSTRUCTION(0, 0, 0, 0, 0)
/* `at` is the number of the instruction itself. */
#define IF(at, d, i, to)       INSTRUCTION(BPF_JMP32 | BPF_JEQ | BPF_K, d, 0, (to) - (at) -1, i)
#define UNLESS(at, d, i, to)   INSTRUCTION(BPF_JMP32 | BPF_JNE | BPF_K, d, 0, (to) - (at) -1, i)
#define IF_MORE(at, d, i, to)  INSTRUCTION(BPF_JMP32 | BPF_JGT | BPF_K, d, 0, (to) - (at) -1, i)
#define IF_LESS(at, d, i, to)  INSTRUCTION(BPF_JMP | BPF_JLT | BPF_K, d, 0, (to) - (at) -1, i)
#define IF_NULL(at, d, to)     INSTRUCTION(BPF_JMP | BPF_JEQ | BPF_K, d, 0, (to) - (at) -1, 0)
#define UNLESS_NULL(at, d, to) INSTRUCTION(BPF_JMP | BPF_JNE | BPF_K, d, 0, (to) - (at) -1, 0)
#define GO(at, to)             INSTRUCTION(BPF_JMP | BPF_JA, 0, 0, (to) - (at) -1, 0)
