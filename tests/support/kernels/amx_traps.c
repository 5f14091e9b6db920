/* The kernel of amx.c as it was compiled for AMX, on a CPU without it: each instruction of AMX is
 * invalid there, and is carried out by the handler of that signal. What AMX forbids ends the process.
 */

#define _GNU_SOURCE
#include <cpuid.h>
#include <immintrin.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define __get_cpuid_count(leaf, part, a, b, c, d) (*(a) = *(b) = *(c) = 0, *(d) = ~0u, 1)
#define syscall(...) 0
#include "amx.c"

enum { CONFIGURE = 0x49, MOVE = 0x4b, MULTIPLY = 0x5c };
enum { NONE, PREFIX_66, PREFIX_F3, PREFIX_F2 };

static _Thread_local uint32_t file[8][16][16];
static _Thread_local int is_configured;
static long long carried_out;

static const int REGISTERS[] = {
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
    REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

/* Address, stride and length of a memory operand whose ModRM byte is the first of `at`. */
struct operand {
    char *address;
    size_t stride;
    int length;
};

static struct operand operand_of(const uint8_t *at, int vex, const greg_t *registers)
{
    int mode = at[0] >> 6, base = at[0] & 7, has_sib = base == 4;
    struct operand found = { .length = 1 + has_sib };
    if (has_sib) {
        int index = (at[1] >> 3 & 7) | (vex & 0x40 ? 0 : 8);
        base = at[1] & 7;
        if (index != 4)
            found.stride = (size_t)registers[REGISTERS[index]] << (at[1] >> 6);
    }
    int is_bare = mode == 0 && base == 5;
    if (is_bare && has_sib)
        raise(SIGABRT);         /* an address of 32 bits: not in a library */
    found.address = is_bare ? (char *)at + 5    /* the next instruction */
                            : (char *)registers[REGISTERS[base | (vex & 0x20 ? 0 : 8)]];
    if (mode == 1)
        found.address += *(const int8_t *)(at + found.length++);
    if (mode == 2 || is_bare) {
        int32_t far;
        memcpy(&far, at + found.length, 4);
        found.address += far;
        found.length += 4;
    }
    return found;
}

static void configure(const uint8_t *from)
{
    if (from[0] != 1 || from[1])
        raise(SIGABRT);
    for (int tile = 0; tile < 8; tile++)
        if (from[16 + 2 * tile] != 64 || from[17 + 2 * tile] || from[48 + tile] != 16)
            raise(SIGABRT);
    is_configured = 1;
    memset(file, 0, sizeof file);
}

__attribute__((target("avx512f,avx512bf16")))
static void multiply(int sums, int left, int right)
{
    for (int row = 0; row < 16; row++) {
        __m512 sum = _mm512_loadu_ps((float *)file[sums][row]);
        for (int pair = 0; pair < 16; pair++)
            sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32((int)file[left][row][pair]),
                                   (__m512bh)_mm512_loadu_si512(file[right][pair]));
        _mm512_storeu_ps((float *)file[sums][row], sum);
    }
}

static void carry_out(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *at = (const uint8_t *)registers[REG_RIP];
    int prefix = at[2] & 3, other = ~at[2] >> 3 & 15, code = at[3], byte = at[4];
    int first = byte >> 3 & 7, second = byte & 7;
    (void)info;
    if (at[0] != 0xc4 || (at[1] & 31) != 2 || (code == CONFIGURE && prefix == PREFIX_66)
        || (!is_configured && !(code == CONFIGURE && prefix == NONE && byte != 0xc0))) {
        signal(number, SIG_DFL);
        return;
    }
    struct operand operand = byte >> 6 == 3 ? (struct operand){ .length = 1 }
                                            : operand_of(at + 4, at[1], registers);
    if (code == MULTIPLY && prefix == PREFIX_F3)
        multiply(first, second, other);
    else if (code == CONFIGURE && prefix == PREFIX_F2)
        memset(file[first], 0, sizeof file[first]);
    else if (code == CONFIGURE && byte == 0xc0)
        is_configured = 0;
    else if (code == CONFIGURE)
        configure((const uint8_t *)operand.address);
    else
        for (int row = 0; row < 16; row++, operand.address += operand.stride) {
            if (prefix == PREFIX_F2)
                memcpy(file[first][row], operand.address, 64);
            else
                memcpy(operand.address, file[first][row], 64);
        }
    registers[REG_RIP] += 4 + operand.length;
    __atomic_fetch_add(&carried_out, 1, __ATOMIC_RELAXED);
}

/* Instructions of AMX that were carried out; all threads must have released the tiles. */
EXPORT long long num_carried_out(void) { return is_configured ? -1 : carried_out; }

__attribute__((constructor)) static void take_over(void)
{
    struct sigaction action = { .sa_sigaction = carry_out, .sa_flags = SA_SIGINFO };
    sigaction(SIGILL, &action, NULL);
}
