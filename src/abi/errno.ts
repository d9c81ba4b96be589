// Error numbers, already negative as the kernel returns them: a unary minus would drop the brand. Linux uapi asm-generic/errno*.h.
export type Errno = number & { readonly __brand: "Errno" };

export const EPERM = -1 as Errno;
export const ENOENT = -2 as Errno;
export const ESRCH = -3 as Errno;
export const EINTR = -4 as Errno;
export const EIO = -5 as Errno;
export const E2BIG = -7 as Errno;
export const ENOEXEC = -8 as Errno;
export const EBADF = -9 as Errno;
export const ECHILD = -10 as Errno;
export const EAGAIN = -11 as Errno;
export const ENOMEM = -12 as Errno;
export const EACCES = -13 as Errno;
export const EFAULT = -14 as Errno;
export const EBUSY = -16 as Errno;
export const EEXIST = -17 as Errno;
export const ENXIO = -6 as Errno;
export const ENODEV = -19 as Errno;
export const ENOTDIR = -20 as Errno;
export const EISDIR = -21 as Errno;
export const ERANGE = -34 as Errno;
export const EADDRNOTAVAIL = -99 as Errno;
export const EINVAL = -22 as Errno;
export const EMFILE = -24 as Errno;
export const ENOTTY = -25 as Errno;
export const EFBIG = -27 as Errno;
export const ENOSPC = -28 as Errno;
export const ESPIPE = -29 as Errno;
export const EPIPE = -32 as Errno;
export const ENAMETOOLONG = -36 as Errno;
export const ENOSYS = -38 as Errno;
export const ENOTEMPTY = -39 as Errno;
export const EOVERFLOW = -75 as Errno;
export const ETIMEDOUT = -110 as Errno;

/** Largest magnitude of an error number (kernel: MAX_ERRNO). */
export const MAX_ERRNO = 4095;

/** True when a returned number is an error (kernel: IS_ERR_VALUE()). */
export function isErr(value: number): value is Errno {
  return value < 0 && value >= -MAX_ERRNO;
}
