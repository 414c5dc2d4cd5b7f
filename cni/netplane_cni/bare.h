/* The few functions of the C library that shim.c uses, straight on the kernel: the library's own start, 25 page faults
 * for tables that the shim never reads, takes three times as long as all that the shim does. For x86-64 and arm64;
 * elsewhere shim.c is built with the library. No stdio, no threads, no locale. */
#include <asm/unistd.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#undef errno
static int errno;
static char **environ;

#if defined(__x86_64__)
static long kernel(long number, long a, long b, long c, long d, long e) {
    long result;
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n hlt\n");
#elif defined(__aarch64__)
static long kernel(long number, long a, long b, long c, long d, long e) {
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d, x4 __asm__("x4") = e;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
}
__asm__(".globl _start\n_start:\n mov x29, #0\n mov x30, #0\n mov x0, sp\n bl begin\n brk #0\n");
#else
#error "no bare start for this processor"
#endif

int main(void);

__attribute__((used, noreturn)) static void begin(long *stack) {
    environ = (char **)(stack + stack[0] + 2); /* argc, its arguments, NULL, then the environment */
    for (;;) kernel(__NR_exit_group, main() & 0xff, 0, 0, 0, 0);
}

static long checked(long result) {
    if (result >= 0 || result < -4095) return result;
    errno = (int)-result;
    return -1;
}

/* Compilers call these on their own, whatever they are told. */
__attribute__((used)) void *memcpy(void *to, const void *from, size_t size) {
    for (size_t i = 0; i < size; i++) ((volatile char *)to)[i] = ((const char *)from)[i];
    return to;
}
__attribute__((used)) void *memset(void *to, int byte, size_t size) {
    for (size_t i = 0; i < size; i++) ((volatile char *)to)[i] = (char)byte;
    return to;
}
size_t strlen(const char *text) {
    size_t size = 0;
    while (text[size]) size++;
    return size;
}
int strncmp(const char *one, const char *other, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (one[i] != other[i] || !one[i]) return (unsigned char)one[i] - (unsigned char)other[i];
    return 0;
}
char *getenv(const char *name) {
    size_t size = strlen(name);
    for (char **entry = environ; *entry; entry++)
        if (!strncmp(*entry, name, size) && (*entry)[size] == '=') return *entry + size + 1;
    return NULL;
}
void *memmem(const void *text, size_t length, const void *word, size_t size) {
    const char *at = text;
    for (; length >= size; at++, length--)
        if (!strncmp(at, word, size)) return (void *)at;
    return NULL;
}
char *strerror(int number) {
    switch (number) {
    case ENOENT: return "No such file or directory";
    case ECONNREFUSED: return "Connection refused";
    case EACCES: return "Permission denied";
    case EAGAIN: return "Resource temporarily unavailable";
    case ECONNRESET: return "Connection reset by peer";
    case EPIPE: return "Broken pipe";
    case ENAMETOOLONG: return "File name too long";
    case E2BIG: return "Argument list too long";
    case EFBIG: return "File too large";
    }
    static char other[] = "error 0000";
    for (int i = 9; i > 5; i--, number /= 10) other[i] = (char)('0' + number % 10);
    return other;
}

#define read(fd, at, size) checked(kernel(__NR_read, fd, (long)(at), (long)(size), 0, 0))
#define write(fd, at, size) checked(kernel(__NR_write, fd, (long)(at), (long)(size), 0, 0))
#define open(path, flags) (int)checked(kernel(__NR_openat, AT_FDCWD, (long)(path), flags, 0, 0))
#define socket(a, b, c) (int)checked(kernel(__NR_socket, a, b, c, 0, 0))
#define send(fd, at, size, flags) checked(kernel(__NR_sendto, fd, (long)(at), (long)(size), flags, 0))
#define recv(fd, at, size, flags) checked(kernel(__NR_recvfrom, fd, (long)(at), (long)(size), flags, 0))
#define connect(fd, at, size) (int)checked(kernel(__NR_connect, fd, (long)(at), size, 0, 0))
#define sendmsg(fd, at, flags) checked(kernel(__NR_sendmsg, fd, (long)(at), flags, 0, 0))
#define shutdown(fd, how) (int)checked(kernel(__NR_shutdown, fd, how, 0, 0, 0))
#define setsockopt(fd, level, name, at, size) \
    (int)checked(kernel(__NR_setsockopt, fd, level, name, (long)(at), size))
