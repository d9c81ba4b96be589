// Short use of a page by its contents, whatever it is: file pages, user pages (include/linux/highmem.h). A page of a file or a process is
// sensitive, so a touch of it by the direct map leaves the restricted address space.
import { cpu, PAGE_SIZE, type VirtAddr } from "../../hardware/index.ts";
import { ephmapMap, ephmapUnmap, isEphmapAddress } from "./ephmap.ts";
import { type PagePtr, pageAddress } from "./page-struct.ts";

/**
 * An address at which this CPU may use the page until `kunmapLocal` (kernel: `kmap_local_page()`): the direct map's, or with option ephmap
 * one that the restricted address space of the process has too.
 */
export function kmapLocalPage(page: PagePtr): VirtAddr {
  const ephemeral = ephmapMap(page);
  return ephemeral === 0 ? pageAddress(page) : ephemeral;
}

/** Ends the use of an address within the page that `kmapLocalPage` gave (kernel: `kunmap_local()`). */
export function kunmapLocal(address: VirtAddr): void {
  if (isEphmapAddress(address)) ephmapUnmap(address); // the direct map stays
}

/** Zeroes a page that will be a process's or a file's (kernel: `clear_highpage()`, `clear_user_highpage()`). */
export function clearHighpage(page: PagePtr): void {
  const at = kmapLocalPage(page);
  cpu.fill(at, 0, PAGE_SIZE);
  kunmapLocal(at);
}

/** Copies a page (kernel: `copy_highpage()`, `copy_user_highpage()`). */
export function copyHighpage(to: PagePtr, from: PagePtr): void {
  const source = kmapLocalPage(from);
  const target = kmapLocalPage(to);
  cpu.copy(target, source, PAGE_SIZE);
  kunmapLocal(target);
  kunmapLocal(source);
}
