// The translator: from bytes of a physical page to a block of micro-ops. Decode up to 64 instructions of one page, find out which flag
// results nobody reads, emit. The core asks for a block when it has none; see `core/blocks.ts` for how blocks are found and forgotten.
import { Decoder, DecoderError, Instruction } from "iced-x86";
import { CODE_SEGMENTED, CODE_STEP, MAX_BLOCK_INSTRUCTIONS, SHARED_TRANSLATED_NEXT } from "../core/layout.gen.ts";
import { bitnessOf, type Decoded, decodeBase, MEM, newDecoded, readInstruction } from "./decode.ts";
import { MicroOpWriter, NOT_TAKEN } from "./emit.ts";
import { FLOW_CONDITIONAL, FLOW_END, FLOW_LEAVES, handlers } from "./handlers.ts";
import { ZERO } from "./ir.ts";
import { opNumber } from "./op-table.ts";
import { defineCompat } from "./translate-compat.ts";
import { defineControl, emitFused, fusedOp } from "./translate-control.ts";
import { defineInteger } from "./translate-integer.ts";
import { defineSystem } from "./translate-system.ts";

defineInteger();
defineControl();
defineSystem();
defineCompat();

const JMP = opNumber("jmp");
const UNDEFINED = opNumber("undefined");
const NOP = opNumber("nop");
const CHECK_NEXT_PAGE = opNumber("check_next_page");
const CHECK_FETCH = opNumber("check_fetch");
const FETCH_FAULT = opNumber("fetch_fault");

const PAGE_BYTES = 4096;
const LONGEST_INSTRUCTION = 15;
/** Bytes given to the decoder at first: most blocks end within them. */
const WINDOW_BYTES = 512;

export interface TranslatorMemory {
  /** The whole linear memory. */
  readonly view: DataView;
  readonly bytes: Uint8Array;
  /** Offset of simulated physical memory in it. */
  readonly physical: number;
  /** Physical address of the page after the one that is being translated, or -1 (core export `nextPagePhysical`). */
  nextPage(): number;
}

export class Translator {
  private readonly memory: TranslatorMemory;
  private readonly writer: MicroOpWriter;
  private readonly instruction = new Instruction();
  private readonly decoded: Decoded[] = Array.from({ length: MAX_BLOCK_INSTRUCTIONS }, newDecoded);
  private count = 0;
  /** CODE_* bits of the block. */
  private mode = 0;
  /** Blocks translated so far. */
  blocks = 0;

  constructor(memory: TranslatorMemory) {
    this.memory = memory;
    this.writer = new MicroOpWriter(memory.view);
  }

  /**
   * Translates the block at byte `offset` of the physical page `page` (-1: no memory is there) as code of `mode` (CODE_*). Returns its
   * first micro-op.
   */
  translate(page: number, offset: number, mode: number): number {
    this.mode = mode;
    this.blocks++;
    const frame = page < 0 ? -1 : page / PAGE_BYTES;
    const { writer } = this;
    writer.beginBlock(offset, mode, frame);
    this.decode(page, offset, (mode & CODE_STEP) !== 0 ? 1 : MAX_BLOCK_INSTRUCTIONS);
    if (this.count === 0) return this.translateCrossing(page, offset);
    this.findDeadFlags();
    this.emitAll();
    return writer.finishBlock(this.endOffset(), -1);
  }

  private endOffset(): number {
    return this.at(this.count - 1).end;
  }

  private at(n: number): Decoded {
    const entry = this.decoded[n];
    if (entry === undefined) throw new RangeError(`instruction ${n} of a block of ${this.count}`);
    return entry;
  }

  /** Fills `decoded` from `offset` on, at most to the end of the page. Leaves count = 0 if already the first instruction crosses. */
  private decode(page: number, offset: number, limit: number): void {
    this.count = 0;
    let at = offset;
    while (this.count < limit && at < PAGE_BYTES) {
      const end = Math.min(PAGE_BYTES, at + WINDOW_BYTES);
      const before = at;
      at = this.decodeWindow(this.bytesAt(page, at, end - at), at, limit);
      if (at < 0 || at === before || end === PAGE_BYTES) return;
    }
  }

  private bytesAt(page: number, offset: number, length: number): Uint8Array {
    // Uninstalled memory reads as ones.
    if (page < 0) return new Uint8Array(length).fill(0xff);
    const start = this.memory.physical + page + offset;
    return this.memory.bytes.subarray(start, start + length);
  }

  /** Decodes instructions that lie in `bytes`. Returns where to go on, or -1: the block has its end. */
  private decodeWindow(bytes: Uint8Array, offset: number, limit: number): number {
    const decoder = new Decoder(bitnessOf(this.mode), bytes, 0);
    decoder.ip = BigInt(decodeBase(this.mode) + offset);
    let at = offset;
    try {
      while (this.count < limit) {
        decoder.decodeOut(this.instruction);
        // Too few bytes: the instruction goes on behind the window (or behind the page).
        if (decoder.lastError === DecoderError.NoMoreBytes) return at;
        const entry = this.slot(this.count);
        readInstruction(this.instruction, at, this.mode, entry);
        this.count++;
        at = entry.end;
        const flow = handlers[entry.mnemonic]?.flow ?? FLOW_LEAVES;
        if (flow === FLOW_END || flow === FLOW_LEAVES || entry.isSlowBranch) return -1;
        // Behind a conditional branch the block may join one that exists.
        if (flow === FLOW_CONDITIONAL && this.writer.known(at) !== 0) return -1;
        if (at >= PAGE_BYTES) return -1;
      }
      return -1;
    } finally {
      decoder.free();
    }
  }

  private slot(n: number): Decoded {
    const entry = this.decoded[n];
    if (entry === undefined) throw new RangeError(`a block has at most ${MAX_BLOCK_INSTRUCTIONS} instructions`);
    return entry;
  }

  /** Backwards: are the flags that an instruction sets read before they are set again, by an instruction or by a way out? */
  private findDeadFlags(): void {
    let live = true;
    for (let n = this.count - 1; n >= 0; n--) {
      const i = this.at(n);
      const entry = handlers[i.mnemonic];
      i.flagsDead = !live;
      if (entry === undefined) {
        live = true;
        continue;
      }
      if (entry.setsAllFlags) live = false;
      else if (i.flagsModified !== 0) live = true;
      if (i.flagsRead !== 0 || entry.canLeave || touchesMemory(i)) live = true;
    }
  }

  private emitAll(): void {
    const { writer } = this;
    let open = -1;
    let n = 0;
    while (n < this.count) {
      const i = this.at(n);
      if (open >= 0) {
        writer.beginNextBlock(i.offset);
        writer.linkHere(open, NOT_TAKEN);
      }
      writer.beginInstruction(i);
      if ((this.mode & CODE_SEGMENTED) !== 0) writer.emit(CHECK_FETCH, ZERO, ZERO, i.end);
      open = -1;
      const next = n + 1 < this.count ? this.at(n + 1) : undefined;
      const fused = next === undefined ? -1 : fusedOp(i, next);
      if (fused >= 0 && next !== undefined) {
        open = emitFused(writer, fused, i, next);
        n += 2;
        continue;
      }
      open = this.emitOne(i);
      n++;
    }
    const last = this.at(this.count - 1);
    if (open >= 0) writer.link(open, NOT_TAKEN, last.end);
    else if (!endsBlock(last)) writer.emitGoOn(JMP, last.end);
  }

  /** Emits one instruction; returns the branch whose not-taken link is open, or -1. */
  private emitOne(i: Decoded): number {
    const { writer } = this;
    const entry = handlers[i.mnemonic];
    const start = writer.pc;
    if (entry === undefined || !entry.handler(writer, i)) {
      writer.pc = start;
      writer.emit(UNDEFINED, ZERO, ZERO, i.mnemonic);
    }
    // A block begins with a micro-op of its first instruction, even if that does nothing: it is what becomes stale.
    if (writer.pc === start && start === writer.entry) writer.emit(NOP);
    if (entry?.flow === FLOW_CONDITIONAL && !i.isSlowBranch) return writer.pc - 32;
    writer.count++;
    return -1;
  }

  /** The first instruction reaches into the next page: it is a block of its own, which first checks that page. */
  private translateCrossing(page: number, offset: number): number {
    const { writer } = this;
    const i = this.slot(0);
    const nextPage = this.memory.nextPage();
    i.offset = offset;
    i.length = 1;
    i.end = offset + 1;
    if (nextPage < 0) {
      writer.beginInstruction(i);
      writer.emit(FETCH_FAULT);
      return writer.finishBlock(PAGE_BYTES, -1);
    }
    const head = PAGE_BYTES - offset;
    const bytes = new Uint8Array(head + LONGEST_INSTRUCTION);
    bytes.set(this.bytesAt(page, offset, head), 0);
    bytes.set(this.bytesAt(nextPage, 0, LONGEST_INSTRUCTION), head);
    this.count = 0;
    this.decodeWindow(bytes, offset, 1);
    writer.beginInstruction(i);
    writer.emit(CHECK_NEXT_PAGE, ZERO, ZERO, nextPage / PAGE_BYTES);
    if ((this.mode & CODE_SEGMENTED) !== 0 && this.count !== 0) writer.emit(CHECK_FETCH, ZERO, ZERO, i.end);
    // Longer than 15 bytes is #GP on silicon; the decoder calls it invalid, and it ends as #UD.
    if (this.count === 0) writer.emit(UNDEFINED);
    else {
      i.flagsDead = false;
      const open = this.emitOne(i);
      if (open >= 0) writer.link(open, NOT_TAKEN, i.end);
      else if (!endsBlock(i)) writer.emitGoOn(JMP, i.end);
    }
    this.memory.view.setUint32(SHARED_TRANSLATED_NEXT, nextPage / PAGE_BYTES + 1, true);
    return writer.finishBlock(Math.max(i.end, PAGE_BYTES + 1), nextPage / PAGE_BYTES);
  }
}

function endsBlock(i: Decoded): boolean {
  return handlers[i.mnemonic]?.flow === FLOW_END;
}

function touchesMemory(i: Decoded): boolean {
  return i.kinds[0] === MEM || i.kinds[1] === MEM || i.kinds[2] === MEM;
}
