#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/isolate/ebpf.h"
#include "daemon/isolate/steer.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"

/*
 * Asked by the kernel for each packet that no connected socket waits for:
 *
 *   TCP to port 53, and TCP to any address but the session's own: our listener, or nobody
 *   all else to the session's own addresses, UDP to port 53: whom it would be without us
 *   other UDP: nobody, which the sender hears at once, and the ring as well
 */

#define DNS_PORT  53
#define MAP_SLOTS 2U /* IPv4, IPv6 */

static int map_new(const int door_fds[2], int *ret_fd)
{
        _cleanup_close_ int map = -EBADF;
        union bpf_attr attr;

        memset(&attr, 0, sizeof(attr));
        attr.map_type = BPF_MAP_TYPE_SOCKMAP;
        attr.key_size = sizeof(uint32_t);
        attr.value_size = sizeof(uint64_t);
        attr.max_entries = MAP_SLOTS;
        map = (int) ebpf_call(BPF_MAP_CREATE, &attr);
        if (map < 0)
                return neg_errno();
        for (uint32_t key = 0; key < MAP_SLOTS && door_fds[key] >= 0; key++) {
                uint64_t value = (uint64_t) door_fds[key];

                memset(&attr, 0, sizeof(attr));
                attr.map_fd = (uint32_t) map;
                attr.key = (uint64_t) (uintptr_t) &key;
                attr.value = (uint64_t) (uintptr_t) &value;
                if (ebpf_call(BPF_MAP_UPDATE_ELEM, &attr) < 0)
                        return neg_errno();
        }
        *ret_fd = TAKE_FD(map);
        return 0;
}

static int word_of(const uint8_t *bytes)
{
        uint32_t word;

        memcpy(&word, bytes, sizeof(word));
        return (int) word;
}

#define CONTEXT(field) (int16_t) offsetof(struct bpf_sk_lookup, field)

enum {
        V6 = 11,
        MAYBE_OWN = 22,
        OWN = 24,
        FOREIGN = 27,
        GIVE = 30,
        PASS = 46,
        DROP = 48,
        NOTE = 50,
        N_CODE = 73
};
enum { GIVE_MAP = 1, NOTE_RING = 14 }; /* in code_give[] and code_note[] */

/* Is it for one of the session's own addresses? Register 7: protocol; 8: port; 9: slot of the map. */
static void put_choice(struct bpf_insn code[GIVE])
{
        static const uint8_t net127[4] = { 127 }, mask8[4] = { 0xff }, one[4] = { 0, 0, 0, 1 };
        const struct bpf_insn choice[GIVE] = {
                MOVE(6, 1),
                LOAD(7, CONTEXT(protocol)),
                LOAD(8, CONTEXT(local_port)),
                SET(9, 0),
                LOAD(1, CONTEXT(family)),
                IF(5, 1, AF_INET6, V6),
                LOAD(1, CONTEXT(local_ip4)),
                IF(7, 1, word_of(steer_own_v4), OWN),
                AND(1, word_of(mask8)),
                IF(9, 1, word_of(net127), OWN),
                GO(10, FOREIGN),
                /* V6: all of ::1 and fd00:5a::15 but the first and the last word is 0 */
                SET(9, 1),
                LOAD(1, CONTEXT(local_ip6[1])),
                LOAD(2, CONTEXT(local_ip6[2])),
                OR(1, 2),
                UNLESS(15, 1, 0, FOREIGN),
                LOAD(2, CONTEXT(local_ip6[0])),
                LOAD(1, CONTEXT(local_ip6[3])),
                IF(18, 2, word_of(steer_own_v6), MAYBE_OWN),
                UNLESS(19, 2, 0, FOREIGN),
                IF(20, 1, word_of(one), OWN),
                GO(21, FOREIGN),
                /* MAYBE_OWN */
                IF(22, 1, word_of(steer_own_v6 + 12), OWN),
                GO(23, FOREIGN),
                /* OWN */
                UNLESS(24, 7, IPPROTO_TCP, PASS),
                IF(25, 8, DNS_PORT, GIVE),
                GO(26, PASS),
                /* FOREIGN */
                IF(27, 7, IPPROTO_TCP, GIVE),
                IF(28, 8, DNS_PORT, PASS),
                GO(29, NOTE),
        };

        memcpy(code, choice, sizeof(choice));
}

/* Where the listener is gone nothing of the session may stand in for it. */
static const struct bpf_insn code_give[NOTE - GIVE] = {
        STORE(-4, 9),
        LOAD_MAP(1),
        MOVE(2, 10),
        ADD(2, -4),
        CALL(BPF_FUNC_map_lookup_elem),
        IF_NULL(36, 0, DROP),
        MOVE(7, 0),
        MOVE(1, 6),
        MOVE(2, 7),
        SET(3, 0),
        CALL(BPF_FUNC_sk_assign),
        MOVE(8, 0),
        MOVE(1, 7),
        CALL(BPF_FUNC_sk_release),
        UNLESS(45, 8, 0, DROP),
        /* PASS */
        SET(0, SK_PASS),
        EXIT,
        /* DROP */
        SET(0, SK_DROP),
        EXIT,
};

#define NOTED(field) (int16_t)(-(int) sizeof(PrivRefused) + (int) offsetof(PrivRefused, field))

/* A full ring loses what comes then. */
static const struct bpf_insn code_note[N_CODE - NOTE] = {
        LOAD(1, CONTEXT(family)),
        STORE(NOTED(family), 1),
        STORE(NOTED(port), 8),
        LOAD(1, CONTEXT(local_ip4)),
        STORE(NOTED(v4), 1),
        LOAD(1, CONTEXT(local_ip6[0])),
        STORE(NOTED(v6[0]), 1),
        LOAD(1, CONTEXT(local_ip6[1])),
        STORE(NOTED(v6[1]), 1),
        LOAD(1, CONTEXT(local_ip6[2])),
        STORE(NOTED(v6[2]), 1),
        LOAD(1, CONTEXT(local_ip6[3])),
        STORE(NOTED(v6[3]), 1),
        STORE(NOTED(padding), 9),
        LOAD_MAP(1),
        MOVE(2, 10),
        ADD(2, -(int) sizeof(PrivRefused)),
        SET(3, sizeof(PrivRefused)),
        SET(4, 0),
        CALL(BPF_FUNC_ringbuf_output),
        SET(0, SK_DROP),
        EXIT,
};

static int ring_new(int *ret_fd)
{
        long page = sysconf(_SC_PAGESIZE), fd;
        union bpf_attr attr;

        memset(&attr, 0, sizeof(attr));
        attr.map_type = BPF_MAP_TYPE_RINGBUF;
        attr.max_entries = MAX_OF((uint32_t) page, PRIV_RING_BYTES_MIN);
        fd = ebpf_call(BPF_MAP_CREATE, &attr);
        if (fd < 0)
                return neg_errno();
        *ret_fd = (int) fd;
        return 0;
}

static int program_new(int map_fd, int ring_fd, int *ret_fd)
{
        struct bpf_insn code[N_CODE];
        union bpf_attr attr;
        long fd;

        put_choice(code);
        memcpy(code + GIVE, code_give, sizeof(code_give));
        memcpy(code + NOTE, code_note, sizeof(code_note));
        code[GIVE + GIVE_MAP].imm = map_fd;
        code[NOTE + NOTE_RING].imm = ring_fd;
        memset(&attr, 0, sizeof(attr));
        attr.prog_type = BPF_PROG_TYPE_SK_LOOKUP;
        attr.expected_attach_type = BPF_SK_LOOKUP;
        attr.insns = (uint64_t) (uintptr_t) code;
        attr.insn_cnt = ELEMENTSOF(code);
        attr.license = (uint64_t) (uintptr_t) "GPL";
        fd = ebpf_call(BPF_PROG_LOAD, &attr);
        if (fd < 0)
                return neg_errno();
        *ret_fd = (int) fd;
        return 0;
}

/* The link keeps the program, the program the map, the map no socket that is closed. */
int steer_bpf_attach(int netns_fd, const int door_fds[2], int *ret_fd, int *ret_ring_fd)
{
        _cleanup_close_ int map = -EBADF, ring = -EBADF, program = -EBADF;
        union bpf_attr attr;
        long fd;
        int r;

        r = map_new(door_fds, &map);
        if (r >= 0)
                r = ring_new(&ring);
        if (r >= 0)
                r = program_new(map, ring, &program);
        if (r < 0)
                return r;
        memset(&attr, 0, sizeof(attr));
        attr.link_create.prog_fd = (uint32_t) program;
        attr.link_create.target_fd = (uint32_t) netns_fd;
        attr.link_create.attach_type = BPF_SK_LOOKUP;
        fd = ebpf_call(BPF_LINK_CREATE, &attr);
        if (fd < 0)
                return neg_errno();
        *ret_fd = (int) fd;
        *ret_ring_fd = TAKE_FD(ring);
        return 0;
}
