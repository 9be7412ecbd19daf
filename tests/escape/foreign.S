# A 32-bit program that ends with status 7 if the kernel answers it: by the interrupt, or (with an argument) by sysenter.
        .globl _start
_start:
        movl (%esp), %ecx
        movl $1, %eax
        movl $7, %ebx
        cmpl $1, %ecx
        jne 1f
        int $0x80
1:      movl %esp, %ebp
        sysenter
        .section .note.GNU-stack,"",@progbits
