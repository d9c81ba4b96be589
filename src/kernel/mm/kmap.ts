// Short use of a page by its contents, whatever it is: file pages, user pages (include/linux/highmem.h). A page of a file or a process is
// sensitive, so a touch of what is returned here leaves the restricted address space.
import { cpu, PAGE_SIZE, type VirtAddr } from "../../hardware/index.ts";
import { type PagePtr, pageAddress } from "./page-struct.ts";

/**
 * An address at which this CPU may use the page until `kunmapLocal` (kernel: `kmap_local_page()`). The direct map's. Uses nest: the last
 * mapped is unmapped first, and the caller does not sleep in between.
 */
export function kmapLocalPage(page: PagePtr): VirtAddr {
  return pageAddress(page);
}

/** Ends the use of an address within the page that `kmapLocalPage` gave (kernel: `kunmap_local()`). */
export function kunmapLocal(_address: VirtAddr): void {
  // The direct map stays.
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
