// Flushes of user memory that another CPU has loaded, and of one that only borrows the tables for a kernel thread (arch/x86/mm/tlb.c).
import assert from "node:assert/strict";
import { test } from "node:test";
import { MACHINES, type MachineName, runKernel } from "../../../test/kernel-machines.ts";
import { MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE } from "../../abi/index.ts";
import { addVirt, cpu, NULL, type VirtAddr } from "../../hardware/index.ts";
import { buildKernelImage } from "../boot/kernel-image.ts";
import { sendIpi } from "../entry/ipi.ts";
import { IRQ_WORK_VECTOR } from "../entry/vectors.ts";
import { kthreadUnuseMm, kthreadUseMm } from "../sched/kthread-use-mm.ts";
import { GFP_KERNEL } from "./gfp.ts";
import { mmAlloc, mmput } from "./mm.ts";
import { initMm, Mm, type MmPtr } from "./mm-struct.ts";
import { doMmap, doMunmap } from "./mmap.ts";
import { perCpuBase } from "./percpu.ts";
import { kzalloc } from "./slab.ts";
import { loadedMm, loadedMmAsid, TlbContext, tlbContexts } from "./tlb-struct.ts";
import { copyFromUser } from "./uaccess.ts";
import { handleMmFault } from "./user-memory.ts";

const PAGE = 4096;
const BASE = 0x10000000 as VirtAddr;
const PAGES = 4;

/** What CPU 1 is asked to do: the word at `order`; the answer is 0 there. */
const USE = 1;
const UNUSE = 2;
/** Reads a page of the mm: BASE + (order - TOUCH) pages. */
const TOUCH = 16;

interface OtherCpu {
  readonly mm: MmPtr;
  ask(order: number): void;
  /** Bytes of the last TOUCH that could not be read. */
  unread(): number;
  loaded(): MmPtr;
  /** The generation of the mm's flushes that its TLB is current with. */
  generation(): number;
}

function withOtherCpu(machine: MachineName, body: (other: OtherCpu) => void): void {
  let mm: MmPtr = NULL;
  let order: VirtAddr = NULL;
  const image = buildKernelImage({
    preset: "cordon",
    processes: [],
    puppets: new Map(),
    hooks: {
      irqWork: () => {
        const wanted = cpu.loadWord(order);
        if (wanted === USE) kthreadUseMm(mm);
        else if (wanted === UNUSE) kthreadUnuseMm();
        else cpu.storeWord(addVirt(order, 8), copyFromUser(addVirt(order, 16), addVirt(BASE, (wanted - TOUCH) * PAGE), 8));
        cpu.storeWord(order, 0);
      },
    },
    lateInitcall: () => {
      mm = mmAlloc();
      order = kzalloc(64, GFP_KERNEL);
      assert.equal(doMmap(mm, BASE, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, NULL, 0), BASE);
      for (let i = 0; i < PAGES; i++) assert.equal(handleMmFault(mm, addVirt(BASE, i * PAGE), "write"), 0);
      const ask = (wanted: number): void => {
        cpu.storeWord(order, wanted);
        sendIpi(1, IRQ_WORK_VECTOR);
        for (let i = 0; i < 100_000 && cpu.loadWord(order) !== 0; i++) cpu.pause();
        assert.equal(cpu.loadWord(order), 0, "the other CPU does not answer");
      };
      const base = perCpuBase(1);
      body({
        mm,
        ask,
        unread: () => cpu.loadWord(addVirt(order, 8)),
        loaded: () => cpu.loadWord(loadedMm.at(base)) as MmPtr, // what the variable holds
        generation: () => {
          const slot = addVirt(tlbContexts.at(base), cpu.load(loadedMmAsid.at(base), 2) * TlbContext.bytes);
          return cpu.load(addVirt(slot, TlbContext.offset.tlbGen), 4);
        },
      });
      mmput(mm);
    },
  });
  runKernel(machine, image, { commandLine: "asi=on", cpus: 2 });
}

function unmap(mm: MmPtr, page: number, pages = 1): void {
  assert.equal(doMunmap(mm, addVirt(BASE, page * PAGE), pages * PAGE), 0);
}

for (const machine of MACHINES) {
  test(`munmap reaches a CPU that works in the mm before it returns (S8; ${machine})`, () => {
    withOtherCpu(machine, ({ mm, ask, unread, generation }) => {
      ask(USE);
      ask(TOUCH);
      assert.equal(unread(), 0);
      unmap(mm, 0);
      assert.equal(generation(), Mm.at(mm).context.tlbGen);
      ask(TOUCH);
      assert.equal(unread(), 8, "the translation is gone: the read faults and is fixed up");
      ask(UNUSE);
    });
  });

  test(`a CPU that only borrows the tables is left alone, catches up when it works in the mm again, and leaves them when tables go (${machine})`, () => {
    withOtherCpu(machine, ({ mm, ask, unread, loaded, generation }) => {
      ask(USE);
      ask(TOUCH + 1);
      ask(UNUSE);
      const before = generation();
      unmap(mm, 1);
      assert.equal(loaded(), mm);
      assert.equal(generation(), before, "no interrupt: it uses no user translation meanwhile");
      ask(USE);
      assert.equal(generation(), Mm.at(mm).context.tlbGen);
      ask(TOUCH + 1);
      assert.equal(unread(), 8, "what it missed was flushed");
      ask(UNUSE);
      unmap(mm, 0, PAGES);
      assert.equal(loaded(), initMm, "page tables are freed: it must not walk them");
    });
  });
}
