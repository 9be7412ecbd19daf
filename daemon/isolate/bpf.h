#pragma once

/*
 * A seccomp program under construction: instructions are put one after the other; jumps to the common ends
 * (allow, refuse) need no labels, since each end is one instruction where it is needed.
 */

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/macro.h"

#define BPF_PROGRAM_MAX 2048U

typedef struct BpfProgram {
        struct sock_filter code[BPF_PROGRAM_MAX];
        size_t n;
        bool is_full; /* an instruction did not fit: bpf_program_seal() refuses */
} BpfProgram;

/* Index of the new instruction, for patching. */
size_t bpf_put(BpfProgram *p, uint16_t code, uint8_t if_true, uint8_t if_false, uint32_t k);

/* Loads 32 bits of argument i (0 to 5): the lower or the upper half. */
void bpf_load_low(BpfProgram *p, unsigned i);
void bpf_load_high(BpfProgram *p, unsigned i);
void bpf_load_number(BpfProgram *p);

/* What the kernel then does: SECCOMP_RET_x. */
void bpf_return(BpfProgram *p, uint32_t action);

/* Returns the action if the loaded value equals k, or has one of its bits; else goes on. */
void bpf_return_if_equal(BpfProgram *p, uint32_t k, uint32_t action);
void bpf_return_if_bits(BpfProgram *p, uint32_t bits, uint32_t action);

/* Kills the process unless it calls through the ABI that we are built for. */
void bpf_check_architecture(BpfProgram *p);

/* Sealed memfd of the instructions. */
int bpf_program_seal(const BpfProgram *p, const char *name, int *ret_fd) _must_check_;
