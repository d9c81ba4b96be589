// A search on disk, to go on after a kill: a line of JSON, then the tree. Written to a temporary name and renamed.
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { UsageError } from "../../hardware/index.ts";
import type { EventCode } from "./event-code.ts";
import type { Learnt } from "./footprint.ts";
import type { Found, SearchState } from "./search.ts";
import { StateTree } from "./state-tree.ts";

const FORMAT = "cordon-search-1";
const NEWLINE = 10;

/** A search, and what it was given of footprints. */
export type SavedSearch = SearchState & { readonly given: Learnt };

/** Writes `state` of the search that `identity` names: configuration and version in one string. */
export function saveSearch(file: string, identity: string, state: SavedSearch): void {
  const { tree, ...rest } = state;
  const header = JSON.stringify({ format: FORMAT, identity, states: tree.size, ...rest });
  const temporary = `${file}.new`;
  writeFileSync(temporary, Buffer.concat([Buffer.from(`${header}\n`), ...tree.save()]));
  renameSync(temporary, file);
}

interface Header {
  readonly format?: unknown;
  readonly identity?: unknown;
  readonly states?: unknown;
  readonly layerStart?: unknown;
  readonly layerEnd?: unknown;
  readonly next?: unknown;
  readonly depth?: unknown;
  readonly executions?: unknown;
  readonly found?: unknown;
  readonly occurred?: unknown;
  readonly isInexact?: unknown;
  readonly learnt?: unknown;
  readonly given?: unknown;
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function isCounts(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every(isCount);
}

function isCode(value: unknown): value is EventCode {
  return Array.isArray(value) && value.length > 0 && value.every(isCount);
}

function isFound(value: unknown): value is Found {
  if (typeof value !== "object" || value === null || !("path" in value) || !("finding" in value)) return false;
  const { path, finding } = value;
  return (
    Array.isArray(path) &&
    path.every(isCode) &&
    typeof finding === "object" &&
    finding !== null &&
    "signature" in finding &&
    typeof finding.signature === "string" &&
    "message" in finding &&
    typeof finding.message === "string"
  );
}

/** Reads what `saveSearch` wrote. A file that is damaged, or of another search, is a UsageError. */
export function loadSearch(file: string, identity: string): SavedSearch {
  const bytes = readFileSync(file);
  const damaged = (what: string): never => {
    throw new UsageError(`${file}: not a search to go on with: ${what}`);
  };
  const end = bytes.indexOf(NEWLINE);
  let header: Header = {};
  try {
    header = JSON.parse(bytes.subarray(0, Math.max(end, 0)).toString()) as Header; // every field is looked at below
  } catch {
    damaged("its first line is not JSON");
  }
  if (typeof header !== "object" || header === null || header.format !== FORMAT) damaged(`its first line does not say ${FORMAT}`);
  if (header.identity !== identity) damaged("it is of another configuration or another version; remove it to begin anew");
  const { states, layerStart, layerEnd, next, depth, executions, found, occurred, isInexact, learnt, given } = header;
  if (!isCount(states) || !isCount(layerStart) || !isCount(layerEnd) || !isCount(next) || !isCount(depth) || !isCount(executions))
    return damaged("a number is missing");
  if (!Array.isArray(found) || !found.every(isFound)) return damaged("its findings cannot be read");
  if (!isCounts(learnt) || !isCounts(given)) return damaged("what was learnt cannot be read");
  if (!Array.isArray(occurred) || !occurred.every((situation): situation is string => typeof situation === "string"))
    return damaged("its situations cannot be read");
  if (!(layerStart < layerEnd && layerStart <= next && next <= layerEnd && layerEnd <= states)) return damaged("its layers do not fit");
  const tree = StateTree.load(bytes.subarray(end + 1), states) ?? damaged("its tree is not whole");
  return { tree, layerStart, layerEnd, next, depth, executions, found, occurred, isInexact: isInexact === true, learnt, given };
}
