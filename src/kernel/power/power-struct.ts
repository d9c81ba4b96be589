// The data of power management: loaded kexec images, what a suspend saves, and who is stopped. Only declarations.
import { array, physical, struct, u32, type View, virtual, word } from "../../hardware/index.ts";
import { staticStruct } from "../static-data.ts";

/** Page tables that one image's transition needs: a root and one table of 1 GiB pages. */
export const KEXEC_TABLES = 2;

/** Kernel: struct kimage. */
export const KImage = struct("kimage", {
  /** A page that ends up in no segment: code of the transition, its data, its stack. 0: no image is loaded. */
  controlPage: virtual,
  /** First entry of the page list: an address with IND_* bits. */
  head: word,
  /** Where the new kernel is entered: a physical address, mapped to itself. */
  start: physical,
  /** Root of the tables that map all memory to itself. */
  pgd: physical,
  tables: array(virtual, KEXEC_TABLES),
  /** The old kernel goes on when the new one returns. */
  preserveContext: u32,
  /** Pages that were allocated inside a segment's destination, chained by their first word: freed with the image. */
  unusable: virtual,
});
export type KImage = View<typeof KImage>;

/** Loaded by kexec_load() (kernel: kexec_image, kexec_crash_image). */
export const kexecImage = staticStruct("kexec_image", KImage);
export const kexecCrashImage = staticStruct("kexec_crash_image", KImage);

/** Entries of the page list (kernel: IND_*). */
export const IND_DESTINATION = 1 << 0;
export const IND_INDIRECTION = 1 << 1;
export const IND_DONE = 1 << 2;
export const IND_SOURCE = 1 << 3;

/** Layout of the control page: what the transition's code is told and saves, then the code, then its stack from the end. */
export const CONTROL = { pgd: 0, head: 8, start: 16, preserve: 24, self: 32, rsp: 40, cr3: 48, cr4: 56, virtual: 64, back: 72 } as const;
export const CONTROL_CODE = 128;

/** Memory kept for a crash kernel (kernel: crashk_res). */
export const CrashRegion = struct("crashk_res", {
  start: virtual,
  bytes: u32,
  /** A crash is under way: other CPUs stop at the NMI that tells them, and return no more. */
  isCrashing: u32,
});
export const crashRegion = staticStruct("crashk_res", CrashRegion);
