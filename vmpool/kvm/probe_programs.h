// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

// Tiny guests: machine code that starts at probe::kCode and reports a byte ("mark") through OUT to the doorbell port
// 0x520.
namespace granary::kvm::probe {

inline constexpr uint64_t kCode = 0x8000;
inline constexpr uint64_t kSecondCode = 0x8100;  // system call entry or interrupt handler
inline constexpr uint64_t kUserCode = 0x8180;
inline constexpr uint64_t kData = 0x9000;

// 16-bit code
inline constexpr uint8_t kRealModeMark = 0x10;
inline constexpr uint8_t kRealMode[] = {
    0xba, 0x20,          0x05,  // mov dx, 0x520
    0xb0, kRealModeMark,        // mov al, mark
    0xee,                       // out dx, al
    0xf4,                       // hlt
};

// 64-bit code; decoded in another mode, 48 is a DEC and the mark comes out wrong.
inline constexpr uint8_t kLongModeMark = 0x11;
inline constexpr uint8_t kLongMode[] = {
    0x48, 0xb8, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,  // mov rax, 0x1122334455667788
    0x48, 0xc1, 0xe8, 0x38,                                      // shr rax, 56
    0x66, 0xba, 0x20, 0x05,                                      // mov dx, 0x520
    0xee,                                                        // out dx, al
    0xf4,                                                        // hlt
};

// Goes to CPL 3 and comes back through SYSCALL. The mark's low bits are the privilege level at the entry.
inline constexpr uint8_t kSyscallMark = 0x40;
inline constexpr uint8_t kSyscall[] = {
    0xb9, 0x82, 0x00, 0x00, 0xc0,  // mov ecx, LSTAR
    0xb8, 0x00, 0x81, 0x00, 0x00,  // mov eax, kSecondCode
    0x31, 0xd2,                    // xor edx, edx
    0x0f, 0x30,                    // wrmsr
    0xb9, 0x81, 0x00, 0x00, 0xc0,  // mov ecx, STAR
    0x31, 0xc0,                    // xor eax, eax
    0xba, 0x08, 0x00, 0x13, 0x00,  // mov edx, 0x00130008 (SYSRET and SYSCALL selectors)
    0x0f, 0x30,                    // wrmsr
    0xb9, 0x84, 0x00, 0x00, 0xc0,  // mov ecx, SFMASK
    0x31, 0xd2,                    // xor edx, edx
    0x0f, 0x30,                    // wrmsr
    0xb9, 0x80, 0x00, 0x00, 0xc0,  // mov ecx, EFER
    0x0f, 0x32,                    // rdmsr
    0x83, 0xc8, 0x01,              // or eax, SCE
    0x0f, 0x30,                    // wrmsr
    0x6a, 0x1b,                    // push user SS
    0x68, 0x00, 0xe0, 0x00, 0x00,  // push user RSP
    0x6a, 0x02,                    // push RFLAGS
    0x6a, 0x23,                    // push user CS
    0x68, 0x80, 0x81, 0x00, 0x00,  // push kUserCode
    0x48, 0xcf,                    // iretq
};
inline constexpr uint8_t kSyscallEntry[] = {
    0x8c, 0xc8,                      // mov eax, cs
    0x83, 0xe0,         0x03,        // and eax, 3
    0x0c, kSyscallMark,              // or al, mark
    0x66, 0xba,         0x20, 0x05,  // mov dx, 0x520
    0xee,                            // out dx, al
    0xf4,                            // hlt
};
inline constexpr uint8_t kSyscallUser[] = {
    0x0f, 0x05,  // syscall
    0xeb, 0xfe,  // jmp $
};

inline constexpr uint8_t kXsaveMark = 0x50;
inline constexpr uint64_t kXsaveXcr0 = 0x3;  // x87 and SSE
inline constexpr uint8_t kXsave[] = {
    0x31, 0xc9,                          // xor ecx, ecx
    0x31, 0xd2,                          // xor edx, edx
    0xb8, 0x03,       0x00, 0x00, 0x00,  // mov eax, kXsaveXcr0
    0x0f, 0x01,       0xd1,              // xsetbv
    0xbf, 0x00,       0x90, 0x00, 0x00,  // mov edi, kData
    0x0f, 0xae,       0x27,              // xsave [rdi]
    0x0f, 0xae,       0x2f,              // xrstor [rdi]
    0xb0, kXsaveMark,                    // mov al, mark
    0x66, 0xba,       0x20, 0x05,        // mov dx, 0x520
    0xee,                                // out dx, al
    0xf4,                                // hlt
};

inline constexpr uint8_t kCmpxchg16bMark = 0x61;
inline constexpr uint8_t kCmpxchg16b[] = {
    0x31, 0xc0,                    // xor eax, eax
    0x31, 0xd2,                    // xor edx, edx
    0xbb, 0x01, 0x00, 0x00, 0x00,  // mov ebx, 1
    0xb9, 0x02, 0x00, 0x00, 0x00,  // mov ecx, 2
    0xbf, 0x00, 0x90, 0x00, 0x00,  // mov edi, kData (zero: the exchange succeeds)
    0xf0, 0x48, 0x0f, 0xc7, 0x0f,  // lock cmpxchg16b [rdi]
    0x0f, 0x94, 0xc0,              // setz al
    0x04, 0x60,                    // add al, 0x60
    0x66, 0xba, 0x20, 0x05,        // mov dx, 0x520
    0xee,                          // out dx, al
    0xf4,                          // hlt
};

// With CR4.SMAP, on pages that CPL 3 may use.
inline constexpr uint8_t kSmapMark = 0x70;
inline constexpr uint8_t kSmap[] = {
    0x0f, 0x01,      0xcb,              // stac
    0xbf, 0x00,      0x90, 0x00, 0x00,  // mov edi, kData
    0x8b, 0x07,                         // mov eax, [rdi]
    0x0f, 0x01,      0xca,              // clac
    0xb0, kSmapMark,                    // mov al, mark
    0x66, 0xba,      0x20, 0x05,        // mov dx, 0x520
    0xee,                               // out dx, al
    0xf4,                               // hlt
};

inline constexpr uint8_t kIrqReadyMark = 0x80;
inline constexpr uint8_t kIrqMark = 0x81;
inline constexpr uint8_t kIrq[] = {
    0xb0, kIrqReadyMark,              // mov al, mark
    0x66, 0xba,          0x20, 0x05,  // mov dx, 0x520
    0xee,                             // out dx, al
    0xfb,                             // sti
    0xf4,                             // hlt
    0xeb, 0xfe,                       // jmp $
};
inline constexpr uint8_t kIrqHandler[] = {
    0xb0, kIrqMark,              // mov al, mark
    0x66, 0xba,     0x20, 0x05,  // mov dx, 0x520
    0xee,                        // out dx, al
    0xf4,                        // hlt
};

// Stops at the first mark, goes on in another VM, and compares registers and memory that it set before.
inline constexpr uint8_t kSnapshotMark = 0x90;
inline constexpr uint8_t kRestoredMark = 0x91;
inline constexpr uint8_t kSnapshot[] = {
    0x48, 0xbb,          0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01,  // mov rbx, 0x0123456789abcdef
    0xbf, 0x00,          0x90, 0x00, 0x00,                                // mov edi, kData
    0x48, 0x89,          0x1f,                                            // mov [rdi], rbx
    0x0f, 0x10,          0x07,                                            // movups xmm0, [rdi]
    0xb0, kSnapshotMark,                                                  // mov al, mark
    0x66, 0xba,          0x20, 0x05,                                      // mov dx, 0x520
    0xee,                                                                 // out dx, al
    0x0f, 0x11,          0x47, 0x10,                                      // movups [rdi + 16], xmm0
    0x48, 0x8b,          0x4f, 0x10,                                      // mov rcx, [rdi + 16]
    0x48, 0x31,          0xd9,                                            // xor rcx, rbx
    0x48, 0x33,          0x1f,                                            // xor rbx, [rdi]
    0x48, 0x09,          0xd9,                                            // or rcx, rbx
    0x0f, 0x94,          0xc0,                                            // setz al
    0x04, 0x90,                                                           // add al, 0x90
    0x66, 0xba,          0x20, 0x05,                                      // mov dx, 0x520
    0xee,                                                                 // out dx, al
    0xf4,                                                                 // hlt
};

}  // namespace granary::kvm::probe
