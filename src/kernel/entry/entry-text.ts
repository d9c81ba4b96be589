// Where the entry text begins and ends, on pages of its own: with page-table isolation the user's tables map it and no other text
// (kernel: .entry.text, __entry_text_start, __entry_text_end).
import { PAGE_SIZE } from "../../hardware/index.ts";
import type { StubProgram } from "../stub-program.ts";

const INT3 = 0xcc;

function marker(symbol: string): StubProgram {
  return {
    symbol: `${symbol}.padding`,
    program: (a) => {
      a.align(PAGE_SIZE, INT3).label(symbol);
    },
    effect: () => 0,
  };
}

export const ENTRY_TEXT_START = "__entry_text_start";
export const ENTRY_TEXT_END = "__entry_text_end";
export const entryTextStart = marker(ENTRY_TEXT_START);
export const entryTextEnd = marker(ENTRY_TEXT_END);
