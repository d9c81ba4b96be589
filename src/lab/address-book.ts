// What lives at a kernel address, and where it was allocated: what the ledger says of each address that took the kernel out of a restricted
// address space. It hears every allocation and reads memory; it never acts.
import { cpu, OWNER_NONE, PAGE_SIZE } from "../hardware/index.ts";
import {
  allocationSite,
  CPU_ENTRY_AREA_BASE,
  currentTask,
  KERNEL_DATA_BASE,
  KERNEL_TEXT_BASE,
  PAGE_OFFSET,
  staticObjects,
  symbolOf,
  TaskStruct,
  VMALLOC_START,
  VMEMMAP_START,
} from "../kernel/index.ts";
import type { SimulatedMachine } from "../machine/index.ts";
import { type KernelView, ownerText } from "./properties/index.ts";

/** Something that the kernel handed out. */
interface Allocation {
  readonly kind: string;
  readonly address: number;
  readonly bytes: number;
  /** Kernel function that asked for it. */
  readonly site: string;
}

export interface AddressText {
  /** `memory of mm 3 (sensitive), pages`, `static data: asi_class`, ... */
  readonly what: string;
  /** Kernel function that allocated it; empty for what nobody allocated. */
  readonly allocatedBy: string;
}

export class AddressBook {
  /** Live allocations by the number of each page that they touch. */
  private readonly pages = new Map<number, Allocation[]>();

  allocated(kind: string, address: number, bytes: number, site: string): void {
    const allocation = { kind, address, bytes, site };
    for (let page = Math.floor(address / PAGE_SIZE); page * PAGE_SIZE < address + bytes; page++) {
      const there = this.pages.get(page);
      if (there === undefined) this.pages.set(page, [allocation]);
      else there.push(allocation);
    }
  }

  freed(kind: string, address: number, bytes: number): void {
    for (let page = Math.floor(address / PAGE_SIZE); page * PAGE_SIZE < address + bytes; page++) {
      const left = this.pages.get(page)?.filter((allocation) => allocation.kind !== kind || allocation.address !== address);
      if (left === undefined || left.length === 0) this.pages.delete(page);
      else this.pages.set(page, left);
    }
  }

  /** The smallest live allocation that holds `address`: the object rather than the pages that the slab allocator took for it. */
  private find(address: number): Allocation | undefined {
    const there = this.pages.get(Math.floor(address / PAGE_SIZE)) ?? [];
    return there
      .filter((allocation) => address >= allocation.address && address < allocation.address + allocation.bytes)
      .sort((a, b) => a.bytes - b.bytes)[0];
  }

  explain(machine: SimulatedMachine, address: number): AddressText {
    if (address >= 0) return { what: "user memory", allocatedBy: "" };
    const allocation = this.find(address);
    const allocatedBy = allocation?.site ?? "";
    if (address >= PAGE_OFFSET && address < VMALLOC_START) {
      const label = machine.inspection.frameOwner(Math.floor((address - PAGE_OFFSET) / PAGE_SIZE));
      // What is touched before it is handed out is being cleared for whoever asks for it.
      if (allocation === undefined && label === OWNER_NONE)
        return { what: "memory that is being allocated", allocatedBy: allocationSite() };
      const owner = label === OWNER_NONE ? "nobody's" : `of ${ownerText(label)}`;
      return { what: `memory ${owner}${allocation === undefined ? "" : `, ${allocation.kind}`}`, allocatedBy };
    }
    return { what: fixedPlace(address), allocatedBy };
  }
}

/** What the address map says of an address outside the direct map. */
function fixedPlace(address: number): string {
  if (address >= KERNEL_DATA_BASE) {
    const object = staticObjects().findLast((candidate) => candidate.address <= address);
    return object !== undefined && address < object.address + object.bytes ? `static data: ${object.name}` : "behind static data";
  }
  if (address >= KERNEL_TEXT_BASE) return `kernel text: ${symbolOf(address) ?? "no symbol"}`;
  if (address >= CPU_ENTRY_AREA_BASE) return "cpu_entry_area";
  if (address >= VMEMMAP_START) return "page array";
  if (address >= VMALLOC_START) return "vmalloc area";
  return "no region";
}

/** The running task by name and pid, for observers inside their calls. */
export function currentTaskText(view: KernelView): string {
  const task = view.word(cpu.perCpuBase + currentTask.offset);
  return `${view.taskName(task)} (${view.u32(task + TaskStruct.offset.pid)})`;
}
