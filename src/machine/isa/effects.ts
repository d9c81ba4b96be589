// What an op reads and writes, derived from its body: the dependences of the scoreboard, and the checks of the op table. Nothing
// is declared twice.
import type { Cond, Expr, Op, Operand, Stmt } from "./ir.ts";

export interface Effects {
  readonly readsOperands: ReadonlySet<Operand>;
  readonly writesOperands: ReadonlySet<Operand>;
  /** Byte offsets of fixed registers. */
  readonly readsFixed: ReadonlySet<number>;
  readonly writesFixed: ReadonlySet<number>;
  readonly readsFlags: boolean;
  readonly writesFlags: boolean;
  readonly loads: boolean;
  readonly stores: boolean;
  /** Uses base, index, scale and displacement as an address. */
  readonly addresses: boolean;
  readonly calls: boolean;
  readonly canFault: boolean;
  readonly ends: "next" | "branch" | "jump" | "indirect";
}

interface Collector {
  readsOperands: Set<Operand>;
  writesOperands: Set<Operand>;
  readsFixed: Set<number>;
  writesFixed: Set<number>;
  readsFlags: boolean;
  writesFlags: boolean;
  loads: boolean;
  stores: boolean;
  addresses: boolean;
  calls: boolean;
  canFault: boolean;
  ends: Effects["ends"];
}

export function effectsOf(op: Op): Effects {
  const found: Collector = {
    readsOperands: new Set(),
    writesOperands: new Set(),
    readsFixed: new Set(),
    writesFixed: new Set(),
    readsFlags: false,
    writesFlags: false,
    loads: false,
    stores: false,
    addresses: false,
    calls: false,
    canFault: false,
    ends: "next",
  };
  for (const stmt of op.body) visitStmt(stmt, found);
  return found;
}

function visitStmt(stmt: Stmt, found: Collector): void {
  switch (stmt.s) {
    case "let":
      visitExpr(stmt.value, found);
      return;
    case "setReg":
      visitExpr(stmt.value, found);
      found.writesOperands.add(stmt.at);
      // A narrow write keeps the rest of the register, so it depends on it.
      if (stmt.width < 32) found.readsOperands.add(stmt.at);
      return;
    case "setFixed":
      visitExpr(stmt.value, found);
      found.writesFixed.add(stmt.offset);
      if (stmt.width < 32) found.readsFixed.add(stmt.offset);
      return;
    case "load":
    case "loadForWrite":
      visitExpr(stmt.address, found);
      found.loads = true;
      found.canFault = true;
      return;
    case "storeBack":
      visitExpr(stmt.value, found);
      found.stores = true;
      return;
    case "store":
      visitExpr(stmt.address, found);
      visitExpr(stmt.value, found);
      found.stores = true;
      found.canFault = true;
      return;
    case "flags":
      found.writesFlags = true;
      if (stmt.kind !== "raw") visitExpr(stmt.r, found);
      if (stmt.kind !== "logic") visitExpr(stmt.a, found);
      if (stmt.kind === "add" || stmt.kind === "sub" || stmt.kind === "explicit") visitExpr(stmt.b, found);
      return;
    case "if":
      visitCond(stmt.when, found);
      for (const inner of stmt.body) visitStmt(inner, found);
      return;
    case "status":
      for (const arg of stmt.args) visitExpr(arg, found);
      found.calls = true;
      found.canFault = true;
      return;
    case "raise":
      found.canFault = true;
      return;
    case "pushReturn":
      visitExpr(stmt.address, found);
      return;
    case "branch":
      visitCond(stmt.when, found);
      found.ends = "branch";
      return;
    case "jump":
      found.ends = "jump";
      return;
    case "indirect":
      visitExpr(stmt.target, found);
      found.ends = "indirect";
      return;
  }
}

function visitExpr(expr: Expr, found: Collector): void {
  switch (expr.k) {
    case "reg":
      found.readsOperands.add(expr.at);
      return;
    case "fixed":
      found.readsFixed.add(expr.offset);
      return;
    case "address":
      found.addresses = true;
      found.readsOperands.add("base");
      found.readsOperands.add("index");
      return;
    case "bin":
      visitExpr(expr.a, found);
      visitExpr(expr.b, found);
      return;
    case "un":
    case "ext":
      visitExpr(expr.a, found);
      return;
    case "select":
      visitCond(expr.when, found);
      visitExpr(expr.a, found);
      visitExpr(expr.b, found);
      return;
    case "bool":
      visitCond(expr.when, found);
      return;
    case "flagBits":
      found.readsFlags = true;
      return;
    case "call":
      for (const arg of expr.args) visitExpr(arg, found);
      return;
    case "const":
    case "temp":
    case "imm":
    case "imm64":
    case "disp":
      return;
  }
}

function visitCond(cond: Cond, found: Collector): void {
  if (cond.k === "flag") {
    found.readsFlags = true;
    return;
  }
  visitExpr(cond.a, found);
  visitExpr(cond.b, found);
}
