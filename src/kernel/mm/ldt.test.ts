import assert from "node:assert/strict";
import { test } from "node:test";
import { withMm } from "../../../test/mm-fixture.ts";
import { EFAULT, EINVAL, ENOMEM, ENOSYS, isErr, MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE } from "../../abi/index.ts";
import { addVirt, cpu, NULL, PAGE_SIZE, PTE_WRITE, type VirtAddr } from "../../hardware/index.ts";
import { gdtPage } from "../entry/entry-area.ts";
import { GDT_ENTRY_LDT } from "../entry/vectors.ts";
import { dupMm } from "./dup-mm.ts";
import { FAIL_NEVER, failAlloc } from "./fail-alloc.ts";
import { sysModifyLdt } from "./ldt.ts";
import { LDT_BASE_ADDR } from "./ldt-pti.ts";
import { LDT_ENTRIES, LdtStruct } from "./ldt-struct.ts";
import { mmAlloc, mmput } from "./mm.ts";
import { Mm, type MmPtr } from "./mm-struct.ts";
import { doMmap } from "./mmap.ts";
import { asiAsyncFreeWork, nrFreePages } from "./page-alloc.ts";
import { isPresent, lookupAddress, translate } from "./page-table.ts";
import { userPgdOf } from "./pti.ts";
import { switchMmIrqsOff } from "./switch-mm.ts";
import { handleMmFault } from "./user-memory.ts";

const BASE = 0x10000000 as VirtAddr;
const [READ, WRITE_OLD, READ_DEFAULT, WRITE] = [0, 1, 2, 0x11];
const DESC_BYTES = 16;

/** A process with a page of memory, loaded. */
function process(): MmPtr {
  const mm = mmAlloc();
  assert.equal(doMmap(mm, BASE, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, NULL, 0), BASE);
  assert.equal(handleMmFault(mm, BASE, "write"), 0);
  switchMmIrqsOff(NULL, mm, NULL);
  return mm;
}

/** struct user_desc at BASE. Flags: seg_32bit 1, contents 2 bits, read_exec_only 8, limit_in_pages 16, seg_not_present 32, useable 64. */
function describe(entry: number, base: number, limit: number, flags: number): void {
  for (const [i, value] of [entry, base, limit, flags].entries()) cpu.store(addVirt(BASE, 4 * i), 4, value);
}

function write(mm: MmPtr, entry: number, base: number, limit: number, flags: number, what = WRITE): number {
  describe(entry, base, limit, flags);
  return sysModifyLdt(mm, what, BASE, DESC_BYTES);
}

function entryOf(mm: MmPtr, entry: number): string {
  const { entries } = LdtStruct.at(Mm.at(mm).ldt);
  const low = cpu.load64(addVirt(entries, 8 * entry));
  return cpu.high.toString(16).padStart(8, "0") + low.toString(16).padStart(8, "0");
}

/** Base and limit of the LDT that this CPU's GDT names. */
function loaded(): readonly [base: number, limit: number] {
  const at = addVirt(gdtPage.here(), GDT_ENTRY_LDT);
  const low = cpu.load64(at);
  const { high } = cpu;
  const upper = cpu.load64(addVirt(at, 8));
  const base = (high & 0xff000000) + ((high & 0xff) << 16) + (low >>> 16);
  assert.equal((high >>> 8) & 0xff, 0x82, "a present LDT descriptor");
  return [(upper | 0) * 2 ** 32 + (base >>> 0), low & 0xffff];
}

test("a descriptor is what user_desc says: privilege 3, present, code or data only (SDM vol. 3, 3.4.5)", () => {
  withMm(() => {
    const mm = process();
    // Writable data, 32-bit, 4 GiB in pages; 16-bit stack segment; readable code; not present; expand-down read-only, with the spare bit.
    assert.equal(write(mm, 0, 0, 0xfffff, 1 | 16), 0);
    assert.equal(write(mm, 1, 0x12345678, 0xffff, 0), 0);
    assert.equal(write(mm, 2, 0x1000, 0xfff, 1 | (2 << 1)), 0);
    assert.equal(write(mm, 3, 0x1000, 0xfff, 1 | 32), 0);
    assert.equal(write(mm, 4, 0, 0x10, (1 << 1) | 8 | 64), 0);
    const entries = [0, 1, 2, 3, 4].map((i) => entryOf(mm, i));
    assert.deepEqual(entries, ["00cff3000000ffff", "1200f3345678ffff", "0040fb0010000fff", "0040730010000fff", "0010f50000000010"]);
  });
});

test("the table is loaded where the mm is: its place and limit are in the GDT, and follow a change and a switch", () => {
  withMm(() => {
    const mm = process();
    assert.equal(write(mm, 2, 0, 0xffff, 0), 0);
    assert.deepEqual(loaded(), [LdtStruct.at(Mm.at(mm).ldt).entries, 23]);
    assert.equal(write(mm, 600, 0, 0xffff, 0), 0);
    assert.deepEqual(loaded(), [LdtStruct.at(Mm.at(mm).ldt).entries, 601 * 8 - 1]);
    assert.equal(entryOf(mm, 2), "0000f3000000ffff", "what was there stays");
    const other = process();
    assert.equal(write(other, 0, 0, 1, 0), 0);
    assert.deepEqual(loaded(), [LdtStruct.at(Mm.at(other).ldt).entries, 7]);
    switchMmIrqsOff(NULL, mm, NULL);
    assert.deepEqual(loaded(), [LdtStruct.at(Mm.at(mm).ldt).entries, 601 * 8 - 1]);
  });
});

test("reading gives the entries and zeros behind them, at most the whole table; no table gives nothing (modify_ldt(2))", () => {
  withMm(() => {
    const mm = process();
    assert.equal(sysModifyLdt(mm, READ, BASE, 100), 0);
    assert.equal(write(mm, 1, 0, 0xffff, 0), 0);
    cpu.fill(BASE, 0xaa, 64);
    assert.equal(sysModifyLdt(mm, READ, BASE, 32), 32);
    assert.equal(cpu.load(addVirt(BASE, 8), 4), 0xffff);
    assert.equal(cpu.load(addVirt(BASE, 16), 4), 0);
    assert.equal(cpu.load(addVirt(BASE, 32), 1), 0xaa);
    assert.equal(sysModifyLdt(mm, READ, BASE, 12), 12);
    cpu.fill(BASE, 0xaa, 256);
    assert.equal(sysModifyLdt(mm, READ_DEFAULT, BASE, 256), 128);
    assert.deepEqual([cpu.load(addVirt(BASE, 127), 1), cpu.load(addVirt(BASE, 128), 1)], [0, 0xaa]);
    assert.equal(sysModifyLdt(mm, READ, 2 ** 47, 16), EFAULT);
  });
});

test("an empty description clears an entry; the old call clears by base and limit alone, and knows no spare bit", () => {
  withMm(() => {
    const mm = process();
    assert.equal(write(mm, 0, 0, 0xffff, 64, WRITE_OLD), 0);
    assert.equal(entryOf(mm, 0), "0000f3000000ffff");
    assert.equal(write(mm, 0, 0, 0, 8 | 32), 0);
    assert.equal(entryOf(mm, 0), "0000000000000000");
    assert.equal(write(mm, 0, 0, 0xffff, 1), 0);
    assert.equal(write(mm, 0, 0, 0, 1, WRITE_OLD), 0);
    assert.equal(entryOf(mm, 0), "0000000000000000");
  });
});

test("bad requests are refused: size, number, conforming code, an unknown call, a bad address", () => {
  withMm(() => {
    const mm = process();
    describe(0, 0, 0xffff, 0);
    assert.equal(sysModifyLdt(mm, WRITE, BASE, 12), EINVAL);
    assert.equal(sysModifyLdt(mm, 3, BASE, 16), ENOSYS);
    assert.equal(sysModifyLdt(mm, WRITE, (2 ** 47) as VirtAddr, 16), EFAULT);
    assert.equal(write(mm, LDT_ENTRIES, 0, 0xffff, 0), EINVAL);
    assert.equal(write(mm, 0, 0, 0xffff, 3 << 1), EINVAL);
    assert.equal(write(mm, 0, 0, 0xffff, (3 << 1) | 32), 0, "but a conforming segment that is not present is fine");
    assert.equal(write(mm, 0, 0, 0xffff, (3 << 1) | 32, WRITE_OLD), EINVAL);
    assert.equal(write(mm, LDT_ENTRIES - 1, 0, 0xffff, 0), 0);
  });
});

test("a child has its own copy of its parent's table", () => {
  withMm(() => {
    const parent = process();
    assert.equal(write(parent, 0, 0, 0xffff, 0), 0);
    const child = dupMm(parent);
    assert.ok(!isErr(child));
    assert.equal(handleMmFault(parent, BASE, "write"), 0); // shared since the fork, and there is no IDT
    assert.equal(write(parent, 0, 0, 0xfff, 0), 0);
    assert.equal(entryOf(child, 0), "0000f3000000ffff");
    assert.equal(entryOf(parent, 0), "0000f30000000fff");
  });
});

test("with PTI the table is in the user tables, read-only, at one of two places; the old place is gone after a change (S8)", () => {
  withMm(
    () => {
      const mm = process();
      const user = userPgdOf(Mm.at(mm).pgd);
      const place = (slot: number): VirtAddr => addVirt(LDT_BASE_ADDR, slot * 65536);
      for (const slot of [0, 1, 0]) {
        assert.equal(write(mm, 0, 0, 0xffff, 0), 0);
        assert.deepEqual(loaded(), [place(slot), 7]);
        const found = lookupAddress(user, place(slot));
        assert.equal(isPresent(found), true);
        assert.equal(found.low & PTE_WRITE, 0);
        assert.equal(translate(found, place(slot)), translate(lookupAddress(user, place(slot)), place(slot)));
        assert.equal(cpu.load(addVirt(place(slot), 0), 4), 0xffff);
        assert.equal(isPresent(lookupAddress(user, place(1 - slot))), false);
      }
    },
    { pti: true },
  );
});

for (const pti of [false, true]) {
  test(`each allocation of modify_ldt and of a fork with a table fails once; nothing is leaked (S9; PTI ${pti})`, () => {
    withMm(
      () => {
        const run = (mm: MmPtr): number => {
          const error = write(mm, 5, 0, 0xffff, 0);
          if (error !== 0) return error;
          const child = dupMm(mm);
          if (isErr(child)) return child;
          mmput(child);
          assert.equal(handleMmFault(mm, BASE, "write"), 0);
          return write(mm, 600, 0, 0xffff, 0);
        };
        const end = (mm: MmPtr): void => {
          switchMmIrqsOff(NULL, keeper, NULL);
          mmput(mm);
          asiAsyncFreeWork();
        };
        const keeper = mmAlloc();
        const warm = process();
        assert.equal(run(warm), 0);
        end(warm);
        const before = nrFreePages();
        const counted = process();
        failAlloc.arm(FAIL_NEVER);
        run(counted);
        const attempts = failAlloc.attempts();
        failAlloc.disarm();
        end(counted);
        assert.ok(attempts > 10);
        for (let nth = 1; nth <= attempts; nth++) {
          const mm = process();
          failAlloc.arm(nth);
          const result = run(mm);
          failAlloc.disarm();
          assert.equal(result, ENOMEM, `allocation ${nth} of ${attempts}`);
          end(mm);
          assert.equal(nrFreePages(), before, `allocation ${nth} of ${attempts}`);
        }
      },
      { pti },
    );
  });
}
