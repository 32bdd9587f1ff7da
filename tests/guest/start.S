/* SPDX-License-Identifier: Apache-2.0 */
/* PVH entry of a tiny guest: 32-bit protected mode -> long mode -> tiny_main(start_info) at CPL3.
 *
 * Everything that can be data is data (page tables, GDT, IDT, TSS, the iretq frame), because a software KVM runs CPL0 through
 * an instruction emulator. The IDT has one gate, #GP, which does tiny_out()'s port access: such a KVM loses IOPL and delivers no INT n.
 * Any other exception is a triple fault, which the VMM sees as KVM_EXIT_SHUTDOWN. */

#define XEN_ELFNOTE_PHYS32_ENTRY 18

#define CR0_PG 0x80000000
#define CR4_PAE 0x20
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
#define RFLAGS 0x2

/* present, writable, user, accessed, dirty: preset, so that the page walker does not write to these pages */
#define TABLE 0x67
#define PAGE_2M (TABLE | 0x80)
#define UNCACHED 0x18

#define KERNEL_CS 0x08
#define USER_SS (0x10 | 3)
#define USER_CS (0x18 | 3)
#define TSS_SELECTOR 0x20
#define TSS_LIMIT 0x67
#define TSS_DESCRIPTOR 0x8900 /* present, available 64-bit TSS */
#define GENERAL_PROTECTION 13
#define INTERRUPT_GATE 0x8e00

  .section .note.Xen, "a", @note
  .align 4
  .long 4, 8, XEN_ELFNOTE_PHYS32_ENTRY
  .asciz "Xen"
  .quad start32

  .section .text.start, "ax"
  .code32
  .globl start32
start32: /* ebx: hvm_start_info */
  lgdt gdt_pointer
  movl $pml4, %eax
  movl %eax, %cr3
  movl %cr4, %eax
  orl $CR4_PAE, %eax
  movl %eax, %cr4
  movl $MSR_EFER, %ecx
  xorl %edx, %edx
  movl $EFER_LME, %eax
  wrmsr
  movl %cr0, %eax
  orl $CR0_PG, %eax
  movl %eax, %cr0
  ljmp $KERNEL_CS, $start64

  .code64
start64:
  lidt idt_pointer
  movw $TSS_SELECTOR, %ax
  ltr %ax
  movl %ebx, %edi
  movq $user_frame, %rsp
  iretq

user_entry:
  xorl %ebp, %ebp
  call tiny_main
  ud2

  .globl tiny_out
tiny_out: /* edi: port, esi: value */
  movl %edi, %edx
  movl %esi, %eax
out_at_cpl3:
  outb %al, %dx /* #GP: no I/O at CPL3 */
  ret

/* #GP at CPL0, on the stack error code and return address: does what was not allowed. */
  .globl out_gate
out_gate:
  cmpq $out_at_cpl3, 8(%rsp)
  jne 1f
  outb %al, %dx
  addq $8, %rsp
  incq (%rsp) /* behind the one-byte OUT */
  iretq
1:
  ud2

  .section .data
  .align 16
gdt:
  .quad 0
  .quad 0x00af9b000000ffff /* KERNEL_CS: 64-bit code */
  .quad 0x00cff3000000ffff /* USER_SS */
  .quad 0x00affb000000ffff /* USER_CS: 64-bit code */
  .word TSS_LIMIT, tss_low, tss_middle + TSS_DESCRIPTOR, 0
  .quad 0
gdt_end:
gdt_pointer:
  .word gdt_end - gdt - 1
  .long gdt
/* Addresses in pieces come from tiny.ld. */
idt:
  .fill GENERAL_PROTECTION * 2, 8, 0
  .word out_gate_low, KERNEL_CS, INTERRUPT_GATE, out_gate_high
  .quad 0
idt_end:
idt_pointer:
  .word idt_end - idt - 1
  .quad idt
  .globl tss
tss:
  .long 0
  .quad kernel_stack_end
  .fill TSS_LIMIT + 1 - 12, 1, 0
  .align 16
user_frame:
  .quad user_entry, USER_CS, RFLAGS, user_stack_end, USER_SS

  .section .bss
  .align 16
  .skip 512
kernel_stack_end:
  .skip 8192
user_stack_end:

  /* Identity map of the low 4 GiB in 2 MiB pages; the device window (3 to 4 GiB) uncached. */
  .section .tables, "aw", @progbits
  .align 4096
pml4:
  .quad pdpt + TABLE
  .fill 511, 8, 0
pdpt:
  .quad directory + TABLE, directory + 0x1000 + TABLE, directory + 0x2000 + TABLE, directory + 0x3000 + TABLE
  .fill 508, 8, 0
directory:
  .set address, 0
  .rept 1536
  .quad address + PAGE_2M
  .set address, address + 0x200000
  .endr
  .rept 512
  .quad address + PAGE_2M + UNCACHED
  .set address, address + 0x200000
  .endr

  .section .note.GNU-stack, "", @progbits
