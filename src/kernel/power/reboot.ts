// The end of this kernel's run, as a program asks for it: reboot(2) and kexec_load(2) (kernel: kernel/reboot.c, kernel/kexec.c).
import { EFAULT, EINVAL, ENOMEM, type Errno } from "../../abi/index.ts";
import { addVirt, cpu, type VirtAddr, word } from "../../hardware/index.ts";
import { GFP_KERNEL } from "../mm/gfp.ts";
import { accessOk } from "../mm/layout.ts";
import { kfree, kmalloc } from "../mm/slab.ts";
import { copyFromUser } from "../mm/uaccess.ts";
import { printk } from "../trace.ts";
import { kernelKexec } from "./kexec.ts";
import { KEXEC_SEGMENT_MAX, type KexecSegment, kexecLoad } from "./kexec-image.ts";
import { stopOtherCpus } from "./stop-cpus.ts";
import { syscoreShutdown } from "./syscore.ts";

// include/uapi/linux/reboot.h
export const LINUX_REBOOT_MAGIC1 = 0xfee1dead;
export const LINUX_REBOOT_MAGIC2 = 672274793;
const LINUX_REBOOT_MAGIC2_MORE: readonly number[] = [85072278, 369367448, 537993216];
export const LINUX_REBOOT_CMD_RESTART = 0x01234567;
export const LINUX_REBOOT_CMD_HALT = 0xcdef0123;
export const LINUX_REBOOT_CMD_CAD_ON = 0x89abcdef;
export const LINUX_REBOOT_CMD_CAD_OFF = 0;
export const LINUX_REBOOT_CMD_POWER_OFF = 0x4321fedc;
export const LINUX_REBOOT_CMD_KEXEC = 0x45584543;

/** The board's way to end a simulation: a byte written here is its status. */
const PORT_DEBUG_EXIT = 0xf4;
const STATUS_POWER_OFF = 0;
const STATUS_RESTART = 1;

/** Kernel: `kernel_restart_prepare()`, `kernel_shutdown_prepare()`, and the stop of the machine behind them. Does not return. */
function endWith(status: number, message: string): number {
  printk(message);
  stopOtherCpus();
  cpu.disableInterrupts();
  syscoreShutdown();
  cpu.portOut(PORT_DEBUG_EXIT, 1, status);
  cpu.park();
  return 0;
}

/** reboot(2) (kernel: `sys_reboot()`). */
export function sysReboot(magic1: number, magic2: number, command: number): number {
  const isMagic = (magic2 | 0) === LINUX_REBOOT_MAGIC2 || LINUX_REBOOT_MAGIC2_MORE.includes(magic2 | 0);
  if (magic1 >>> 0 !== LINUX_REBOOT_MAGIC1 || !isMagic) return EINVAL;
  switch (command >>> 0) {
    case LINUX_REBOOT_CMD_RESTART:
      return endWith(STATUS_RESTART, "reboot: Restarting system");
    case LINUX_REBOOT_CMD_HALT:
      return endWith(STATUS_POWER_OFF, "reboot: System halted");
    case LINUX_REBOOT_CMD_POWER_OFF:
      return endWith(STATUS_POWER_OFF, "reboot: Power down");
    case LINUX_REBOOT_CMD_CAD_ON:
    case LINUX_REBOOT_CMD_CAD_OFF:
      return 0;
    case LINUX_REBOOT_CMD_KEXEC:
      return kernelKexec();
    default:
      return EINVAL;
  }
}

// include/uapi/linux/kexec.h
export const KEXEC_ON_CRASH = 1 << 0;
export const KEXEC_PRESERVE_CONTEXT = 1 << 1;
const KEXEC_ARCH_MASK = 0xffff0000;
const KEXEC_ARCH_X86_64 = 62 << 16;
/** struct kexec_segment: buf, bufsz, mem, memsz. */
const SEGMENT_BYTES = 32;

function readSegments(table: VirtAddr, count: number): { readonly segments: KexecSegment[]; readonly buffers: number[] } {
  const segments: KexecSegment[] = [];
  const buffers: number[] = [];
  for (let i = 0; i < count; i++) {
    const at = addVirt(table, i * SEGMENT_BYTES);
    buffers.push(word.get(at));
    const bytes = word.get(addVirt(at, 8));
    const memory = word.get(addVirt(at, 16));
    segments.push({ bytes, memory, memoryBytes: word.get(addVirt(at, 24)) });
  }
  return { segments, buffers };
}

/** kexec_load(2) (kernel: `sys_kexec_load()`). */
export function sysKexecLoad(entry: number, count: number, user: number, flags: number): number {
  const arch = (flags & KEXEC_ARCH_MASK) >>> 0;
  if (arch !== 0 && arch !== KEXEC_ARCH_X86_64) return EINVAL;
  if ((flags & ~(KEXEC_ARCH_MASK | KEXEC_ON_CRASH | KEXEC_PRESERVE_CONTEXT)) !== 0) return EINVAL;
  if (count < 0 || count > KEXEC_SEGMENT_MAX) return EINVAL;
  const table = kmalloc(KEXEC_SEGMENT_MAX * SEGMENT_BYTES, GFP_KERNEL);
  if (table === 0) return ENOMEM;
  const isReadable =
    count === 0 || (accessOk(user, count * SEGMENT_BYTES) && copyFromUser(table, user as VirtAddr, count * SEGMENT_BYTES) === 0); // checked
  const { segments, buffers } = isReadable ? readSegments(table, count) : { segments: [], buffers: [] };
  kfree(table);
  if (!isReadable) return EFAULT;
  return kexecLoad({
    entry,
    segments,
    preserveContext: (flags & KEXEC_PRESERVE_CONTEXT) !== 0,
    onCrash: (flags & KEXEC_ON_CRASH) !== 0,
    read: (segment, offset, to, bytes): 0 | Errno => {
      const from = (buffers[segment] ?? 0) + offset;
      return accessOk(from, bytes) && copyFromUser(to, from as VirtAddr, bytes) === 0 ? 0 : EFAULT; // checked
    },
  });
}
