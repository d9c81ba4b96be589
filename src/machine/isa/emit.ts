// Writes micro-ops, their sites and block headers into the linear memory of the core. Typed arrays and integers only.
import {
  BLOCK_BYTES,
  BLOCK_FLAGS,
  BLOCK_FRAME,
  BLOCK_LIMIT,
  BLOCK_MODE,
  BLOCK_NEXT,
  BLOCK_OFFSET,
  CODE_REGION,
  CODE_SEGMENTED,
  CODE_STEP,
  FRAME_BLOCKS_REGION,
  FRAME_LINES_REGION,
  SEG_CS,
  SEG_FS,
  SHARED_CODE_TOP,
  SITE_FIRST,
  SITE_INDEX,
  SITE_LENGTH,
  SITE_OFFSET,
  SITES_REGION,
  UOP_BASE,
  UOP_COUNT,
  UOP_DISP,
  UOP_DST,
  UOP_FLAG_FIRST,
  UOP_FLAG_STACK,
  UOP_FLAGS,
  UOP_IMM,
  UOP_INDEX,
  UOP_KEY,
  UOP_LINK,
  UOP_NEXT_OFFSET,
  UOP_OP,
  UOP_SCALE,
  UOP_SRC,
} from "../core/layout.gen.ts";
import type { Decoded } from "./decode.ts";
import { effectsOf } from "./effects.ts";
import { RBP, RSP, TEMP0, ZERO } from "./ir.ts";
import { OPS, opNumber } from "./op-table.ts";

const LEA16_ZERO = opNumber("lea16_zero");
const SEGMENT_ADDRESS = opNumber("segment_address");
const LEA32 = opNumber("lea32");
const LEA64 = opNumber("lea64");
const MOV64_IMM64 = opNumber("mov64_imm64");
const LINK_STUB = opNumber("link_stub");
const FAR_JUMP = opNumber("far_jump");

const PAGE_BYTES = 4096;
export const PLAIN_BYTES = 16;
export const BRANCH_BYTES = 32;
/** Slots of the two links in a branch. */
export const NOT_TAKEN = UOP_LINK;
export const TAKEN = UOP_LINK + 4;

/** Ops whose core function writes to its memory operand. */
const WRITING_FUNCTIONS: ReadonlySet<string> = new Set([
  "cmpxchg8b",
  "cmpxchg16b",
  "sgdt",
  "sidt",
  "smsw_m",
  "store_selector_m",
  "vector_store",
  "vector_store_aligned",
]);
/** By op: it writes to its memory operand. */
const writesMemory: readonly boolean[] = OPS.map((op) => WRITING_FUNCTIONS.has(op.name) || effectsOf(op).stores);

/** Fields of the immediate of `segment_address`. */
const SEGMENT_BYTES_SHIFT = 4;
const SEGMENT_WRITE = 0x1000;
const SEGMENT_ADDRESS_16 = 0x2000;

/** Ops that address the stack by themselves. */
const stackOps: ReadonlySet<number> = new Set(
  ["push64_r", "push64_i", "pop64_r", "push16", "pop16_r", "call", "call_r", "ret", "ret_imm", "leave", "enter"].map(opNumber),
);

/** A base of RSP or RBP means the stack segment, unless there is a prefix (then the base is another). */
function isStackOp(op: number, base: number): boolean {
  return base === RSP || base === RBP || stackOps.has(op);
}

interface PendingLink {
  source: number;
  slot: number;
  /** Page-relative target. */
  target: number;
}

export class MicroOpWriter {
  private readonly view: DataView;
  /** Address of the next micro-op. */
  pc = 0;
  private block = 0;
  private firstEntry = 0;
  private frame = 0;
  private first = false;
  private siteOffset = 0;
  private siteLength = 0;
  /** Instructions of the current segment before this one. */
  count = 0;
  private pending: PendingLink[] = [];

  constructor(view: DataView) {
    this.view = view;
  }

  /** Entry of the block at `offset` in the frame of the block that is being written, or 0. Single-step blocks have no neighbours. */
  known(offset: number): number {
    const { view } = this;
    const mode = view.getUint8(this.block + BLOCK_MODE);
    if (this.frame < 0 || (mode & CODE_STEP) !== 0) return 0;
    let block = view.getUint32(FRAME_BLOCKS_REGION + this.frame * 4, true);
    while (block !== 0) {
      if (view.getUint16(block + BLOCK_OFFSET, true) === offset && view.getUint8(block + BLOCK_MODE) === mode) return block + BLOCK_BYTES;
      block = view.getUint32(block + BLOCK_NEXT, true);
    }
    return 0;
  }

  /** `mode`: CODE_* bits, with CODE_STEP. */
  beginBlock(offset: number, mode: number, frame: number): void {
    this.pc = this.view.getUint32(SHARED_CODE_TOP, true);
    this.frame = frame;
    this.pending = [];
    this.writeHeader(offset, mode);
    this.firstEntry = this.entry;
  }

  /**
   * Behind a conditional branch: what follows is a block of its own, so that a jump there finds it, and not a second translation.
   * Executors come to it by the link of the branch.
   */
  beginNextBlock(offset: number): void {
    this.closeBlock(offset);
    this.writeHeader(offset, this.view.getUint8(this.block + BLOCK_MODE));
  }

  private writeHeader(offset: number, mode: number): void {
    const { view } = this;
    this.block = this.pc;
    view.setUint16(this.block + BLOCK_OFFSET, offset, true);
    view.setUint8(this.block + BLOCK_MODE, mode);
    view.setUint8(this.block + BLOCK_FLAGS, 0);
    view.setUint32(this.block + BLOCK_FRAME, this.frame >>> 0, true);
    this.pc = this.block + BLOCK_BYTES;
    this.count = 0;
  }

  /** Enters the block that is being written, whose last byte lies before `endOffset`, in the list of its frame. */
  private closeBlock(endOffset: number): void {
    const { view, block } = this;
    view.setUint32(block + BLOCK_LIMIT, this.pc, true);
    if (this.frame >= 0) this.enterList(block, this.frame, view.getUint16(block + BLOCK_OFFSET, true), Math.min(endOffset, PAGE_BYTES));
  }

  /** Entry of the block that is being written. */
  get entry(): number {
    return this.block + BLOCK_BYTES;
  }

  beginInstruction(i: Decoded): void {
    this.first = true;
    this.siteOffset = i.offset;
    this.siteLength = i.length;
  }

  /** What follows belongs to no instruction, but stands where the one at `offset` begins. */
  between(offset: number): void {
    this.first = false;
    this.siteOffset = offset & (PAGE_BYTES - 1);
    this.siteLength = 0;
  }

  /** A micro-op without a memory operand. Returns its address. */
  emit(op: number, dst = ZERO, src = ZERO, imm = 0): number {
    return this.write(op, dst, src, ZERO, ZERO, 0, 0, imm, PLAIN_BYTES);
  }

  /** A micro-op with a 64-bit immediate. */
  emitImmediate64(op: number, dst: number, low: number, high: number): number {
    return this.write(op, dst, ZERO, ZERO, ZERO, 0, low, high, PLAIN_BYTES);
  }

  /** A micro-op with the memory operand `[base + disp]`. */
  emitAt(op: number, dst: number, src: number, base: number, disp: number): number {
    return this.write(op, dst, src, base, ZERO, 0, disp, 0, PLAIN_BYTES);
  }

  /** A micro-op with the memory operand of `i`. */
  emitMemory(op: number, dst: number, src: number, i: Decoded, imm = 0): number {
    const bytes = PLAIN_BYTES;
    if (i.mode !== 0) return this.emitCompatMemory(op, dst, src, i, imm);
    if (i.dispWide) return this.emitWideAddress(op, dst, src, i, imm);
    let { base, index, scale, disp } = i;
    if (i.address32) {
      this.write(LEA32, TEMP0, ZERO, base, index, scale, disp, 0, PLAIN_BYTES);
      base = TEMP0;
      index = i.segment;
      scale = 0;
      disp = 0;
    } else if (i.segment !== ZERO) {
      if (base === ZERO) base = i.segment;
      else if (index === ZERO) {
        index = base;
        scale = 0;
        base = i.segment;
      } else {
        this.write(LEA64, TEMP0, ZERO, i.segment, base, 0, disp, 0, PLAIN_BYTES);
        base = TEMP0;
        disp = 0;
      }
    }
    return this.write(op, dst, src, base, index, scale, disp, imm, bytes);
  }

  /** Compatibility mode: the effective address is cut to its size, checked unless its segment is flat, and becomes a linear one. */
  private emitCompatMemory(op: number, dst: number, src: number, i: Decoded, imm: number): number {
    this.writeEffective(LEA32, i);
    return this.emitInSegment(op, dst, src, i, imm);
  }

  /** As a memory operand of `i`, at the effective address in TEMP0. */
  emitInSegment(op: number, dst: number, src: number, i: Decoded, imm = 0): number {
    const isFlat = (i.mode & CODE_SEGMENTED) === 0 && i.segmentRegister !== SEG_CS && i.segmentRegister < SEG_FS;
    if (!isFlat) {
      const how =
        i.segmentRegister |
        (Math.max(1, i.memoryBytes) << SEGMENT_BYTES_SHIFT) |
        (writesMemory[op] === true ? SEGMENT_WRITE : 0) |
        (i.addressBits === 16 ? SEGMENT_ADDRESS_16 : 0);
      this.write(SEGMENT_ADDRESS, ZERO, ZERO, TEMP0, ZERO, 0, 0, how, PLAIN_BYTES);
    }
    return this.write(op, dst, src, TEMP0, ZERO, 0, 0, imm, PLAIN_BYTES);
  }

  /** The effective address of `i`, cut to its size, in TEMP0. */
  private writeEffective(lea32: number, i: Decoded): void {
    this.write(i.addressBits === 16 ? LEA16_ZERO : lea32, TEMP0, ZERO, i.base, i.index, i.scale, i.disp, 0, PLAIN_BYTES);
  }

  /** The effective address of `i` in TEMP0, in compatibility mode, for code that goes on with emitInSegment(). */
  emitEffective(i: Decoded): void {
    this.writeEffective(LEA32, i);
  }

  /** A sum into TEMP0, cut to the address size of `i`: TEMP0 + `index` + `disp`. */
  emitMoveEffective(i: Decoded, index: number, disp: number): void {
    this.write(i.addressBits === 16 ? LEA16_ZERO : LEA32, TEMP0, ZERO, TEMP0, index, 0, disp, 0, PLAIN_BYTES);
  }

  /** A micro-op that calls a core function, with the operand size in bytes, which the function reads. */
  emitSized(op: number, bytes: number, dst = ZERO, src = ZERO, imm = 0, disp = 0): number {
    return this.write(op, dst, src, ZERO, ZERO, bytes, disp, imm, PLAIN_BYTES);
  }

  /** An absolute 64-bit address (MOV with moffs). */
  private emitWideAddress(op: number, dst: number, src: number, i: Decoded, imm: number): number {
    this.write(MOV64_IMM64, TEMP0, ZERO, ZERO, ZERO, 0, i.immLow, i.immHigh, PLAIN_BYTES);
    return this.write(op, dst, src, TEMP0, i.segment, 0, 0, imm, PLAIN_BYTES);
  }

  /** The address of the memory operand of `i`, without its segment (LEA). `size32`: cut to 32 bits. */
  emitAddress(op: number, dst: number, i: Decoded): number {
    return this.write(op, dst, ZERO, i.base, i.index, i.scale, i.disp, 0, PLAIN_BYTES);
  }

  /** A branch; the current instruction is the last of its segment. Links are still to be set. */
  emitBranch(op: number, i: Decoded, dst = ZERO, src = ZERO, imm = 0, disp = 0): number {
    const pc = this.write(op, dst, src, ZERO, ZERO, 0, disp, imm, BRANCH_BYTES);
    this.finishBranch(pc, i.end, this.count + 1);
    return pc;
  }

  /** A branch with the memory operand of `i` (JMP through memory). */
  emitBranchMemory(op: number, i: Decoded): number {
    const pc = this.emitMemory(op, ZERO, ZERO, i);
    this.pc = pc + BRANCH_BYTES;
    this.finishBranch(pc, i.end, this.count + 1);
    return pc;
  }

  /** Ends a segment without a branch instruction: goes on at the page offset `offset` after `count` instructions. */
  emitGoOn(op: number, offset: number): void {
    this.between(offset);
    const pc = this.write(op, ZERO, ZERO, ZERO, ZERO, 0, 0, 0, BRANCH_BYTES);
    this.finishBranch(pc, offset, this.count);
    this.link(pc, TAKEN, offset);
  }

  private finishBranch(pc: number, end: number, count: number): void {
    const { view } = this;
    view.setUint32(pc + NOT_TAKEN, 0, true);
    view.setUint32(pc + TAKEN, 0, true);
    view.setUint16(pc + UOP_COUNT, count, true);
    view.setUint16(pc + UOP_NEXT_OFFSET, end & 0x1fff, true);
    view.setUint32(pc + UOP_KEY, ((this.frame << 12) | (this.siteOffset & 0xfff)) >>> 0, true);
    this.count = 0;
  }

  /** The link of `source` leads to the micro-op that is written next. */
  linkHere(source: number, slot: number): void {
    this.view.setUint32(source + slot, this.pc, true);
  }

  /** The link of `source` leads to the instruction at the page-relative `target`; resolved when the block ends. */
  link(source: number, slot: number, target: number): void {
    this.pending.push({ source, slot, target });
  }

  /** Closes the last block, writes what open links lead to, and returns the entry of the first. `nextFrame`: it reaches into that, or -1. */
  finishBlock(endOffset: number, nextFrame: number): number {
    this.closeBlock(endOffset);
    for (const { source, slot, target } of this.pending) this.view.setUint32(source + slot, this.resolve(source, slot, target), true);
    this.view.setUint32(SHARED_CODE_TOP, this.pc, true);
    if (this.frame >= 0 && nextFrame >= 0) this.addAlias(nextFrame, endOffset - PAGE_BYTES);
    return this.firstEntry;
  }

  private resolve(source: number, slot: number, target: number): number {
    this.between(target);
    if (target >= 0 && target < PAGE_BYTES) {
      const known = this.known(target);
      if (known !== 0) return known;
      const stub = this.write(LINK_STUB, ZERO, ZERO, ZERO, ZERO, 0, target, 0, BRANCH_BYTES);
      this.view.setUint32(stub + UOP_LINK, source, true);
      this.view.setUint32(stub + UOP_LINK + 4, slot, true);
      this.view.setUint16(stub + UOP_COUNT, 0, true);
      this.view.setUint32(stub + UOP_KEY, this.frame >>> 0, true);
      return stub;
    }
    const jump = this.write(FAR_JUMP, ZERO, ZERO, ZERO, ZERO, 0, target, 0, BRANCH_BYTES);
    this.finishBranch(jump, target, 0);
    return jump;
  }

  /** Puts a header at the head of the list of `frame` and marks the lines its code covers. */
  private enterList(block: number, frame: number, from: number, to: number): void {
    const { view } = this;
    const head = FRAME_BLOCKS_REGION + frame * 4;
    view.setUint32(block + BLOCK_NEXT, view.getUint32(head, true), true);
    view.setUint32(head, block, true);
    const lines = FRAME_LINES_REGION + frame * 8;
    for (let line = from >> 6; line <= (to - 1) >> 6; line++) {
      const half = lines + (line >> 5) * 4;
      view.setUint32(half, view.getUint32(half, true) | (1 << (line & 31)), true);
    }
  }

  /** In the frame that the last instruction reaches into: a header that leads back to this block's frame. */
  private addAlias(frame: number, bytes: number): void {
    const { view } = this;
    const alias = this.pc;
    view.setUint16(alias + BLOCK_OFFSET, 0xffff, true);
    view.setUint8(alias + BLOCK_MODE, 0);
    view.setUint8(alias + BLOCK_FLAGS, 0);
    view.setUint32(alias + BLOCK_FRAME, this.frame, true);
    view.setUint32(alias + BLOCK_LIMIT, alias + BLOCK_BYTES, true);
    this.pc += BLOCK_BYTES;
    view.setUint32(SHARED_CODE_TOP, this.pc, true);
    this.enterList(alias, frame, 0, Math.max(bytes, 1));
  }

  private write(
    op: number,
    dst: number,
    src: number,
    base: number,
    index: number,
    scale: number,
    disp: number,
    imm: number,
    bytes: number,
  ): number {
    const { view, pc } = this;
    view.setUint16(pc + UOP_OP, op, true);
    view.setUint8(pc + UOP_DST, dst);
    view.setUint8(pc + UOP_SRC, src);
    view.setUint8(pc + UOP_BASE, base);
    view.setUint8(pc + UOP_INDEX, index);
    view.setUint8(pc + UOP_SCALE, scale);
    view.setUint8(pc + UOP_FLAGS, (this.first ? UOP_FLAG_FIRST : 0) | (isStackOp(op, base) ? UOP_FLAG_STACK : 0));
    view.setInt32(pc + UOP_DISP, disp, true);
    view.setInt32(pc + UOP_IMM, imm, true);
    const site = SITES_REGION + ((pc - CODE_REGION) >> 2);
    view.setUint16(site + SITE_OFFSET, this.siteOffset | (this.first ? SITE_FIRST : 0), true);
    view.setUint8(site + SITE_INDEX, this.count);
    view.setUint8(site + SITE_LENGTH, this.siteLength);
    if (bytes === BRANCH_BYTES) view.setUint16(site + 4 + SITE_OFFSET, 0, true);
    this.first = false;
    this.pc = pc + bytes;
    return pc;
  }
}
