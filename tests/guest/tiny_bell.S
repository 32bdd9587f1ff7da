/* SPDX-License-Identifier: Apache-2.0 */
/* The quickest guest: as soon as it runs in a clone it rings TINY_MARK_RESTORED. For benchmarks that end at a clone's first
 * instruction. It stays where PVH entry puts it (32-bit protected mode, CPL0) and has no memory of its own. */
#include "tests/guest/layout.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18

  .section .note.Xen, "a", @note
  .align 4
  .long 4, 8, XEN_ELFNOTE_PHYS32_ENTRY
  .asciz "Xen"
  .quad start32

  .section .text.start, "ax"
  .code32
  .globl start32
start32:
  movl TINY_VMGENID_ADDRESS, %ecx
  movw $TINY_DOORBELL_PORT, %dx
  movb $TINY_BELL_READY, %al
  outb %al, %dx
1:
  cmpl TINY_VMGENID_ADDRESS, %ecx
  je 1b
  movb $TINY_MARK_RESTORED, %al
  outb %al, %dx
2:
  jmp 2b

  .section .note.GNU-stack, "", @progbits
